import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from my_run import pictures, predict
from my_run.batches.evaluation import Evaluation
from my_run.batches.loaders import MicroBatchReader
from my_run.batches.sampling import MicroBatch
from my_run.checkpoint.data_info import save_data_info
from my_run.checkpoint.weights import save_weights
from my_run.config import TrainConfig
from my_run.data import (
    Split,
    describe,
    load_split,
    to_text,
)
from my_run.model import (
    GPT,
    SIZES,
    Block,
    compute_loss,
    make_model,
    rotate,
    rotation_of,
    score,
    summarize,
)
from my_run.optimizer import (
    make_optimizer,
    set_learning_rate,
)
from my_run.settings.config_file import as_yaml
from my_run.settings.errors import SettingError

CONFIG = TrainConfig(block_size=16)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def files(folder: Path, *texts: bytes) -> TrainConfig:
    """Return settings that train on files with these texts."""
    paths = [folder / f"{index}.txt" for index in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    return replace(CONFIG, data_file=tuple(paths))


def make(config: TrainConfig = CONFIG) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_model(config, describe(config))


def test_the_blocks_of_all_splits_are_the_text(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [bytes(draw.integers(0, 256, size).tolist()) for size in (161, 500)]
    config = files(tmp_path, *texts)
    splits = {split: load_split(split, config, describe(config)) for split in SPLITS}

    assert {split: len(blocks) for split, blocks in splits.items()} == {
        "train": 8 + 24,
        "validation": 1 + 3,
        "test": 1 + 4,
    }
    for text, parts in zip(texts, [(0, 8, 0, 1, 0, 1), (8, 32, 1, 4, 1, 5)], strict=True):
        blocks = [
            splits[split][index]
            for split, start, end in zip(SPLITS, parts[::2], parts[1::2], strict=True)
            for index in range(start, end)
        ]
        assert b"".join(bytes(block[:-1].tolist()) for block in blocks) == text[: 16 * len(blocks)]
        # The target of a block's last byte is the next block's first.
        for block, following in itertools.pairwise(blocks):
            assert block[-1] == following[0]
        assert blocks[-1][-1] == text[16 * len(blocks)]


def test_a_batch_is_its_samples() -> None:
    blocks = load_split("test", CONFIG, describe(CONFIG))
    batch = MicroBatchReader(blocks)[[MicroBatch([3, 0, len(blocks) - 1], seed=0)]]

    assert batch.shape == (3, 17) and batch.dtype == torch.int64
    assert torch.equal(batch[1], blocks[0]) and torch.equal(batch[2], blocks[len(blocks) - 1])
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_files_are_memory_mapped(tmp_path: Path) -> None:
    config = files(tmp_path, b"abc" * 1000)
    blocks = load_split("train", config, describe(config))

    assert all(isinstance(text, np.memmap) for text in blocks.texts)
    info = describe(config)
    assert info["bytes"] == 3000
    config.data_file[0].write_bytes(b"abd" * 1000)
    assert describe(config)["text"] != info["text"]


def test_a_file_that_will_not_do_is_named(tmp_path: Path) -> None:
    config = files(tmp_path, b"x" * 500, b"x" * 160)
    with pytest.raises(SettingError, match=r"1\.txt has 160 bytes, .* need at least 161; try a s"):
        describe(config)
    with pytest.raises(SettingError, match=r"the built-in text has \d+ bytes, .* smaller --block"):
        describe(TrainConfig(block_size=100_000))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(SettingError, match=r"empty\.txt has 0 bytes"):
        describe(replace(config, data_file=(tmp_path / "empty.txt",)))
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(SettingError, match=f"data_file {path} cannot be read: "):
            describe(replace(config, data_file=(path,)))


def test_the_prediction_of_a_byte_depends_on_no_later_one() -> None:
    model = make().eval()
    tokens = torch.randint(256, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = torch.randint(256, (2, 7))
    for parameter in model.parameters():  # Branches start as zero.
        torch.nn.init.normal_(parameter, std=0.1)
    logits, others = model(tokens), model(changed)

    assert logits.shape == (2, 16, 256)
    torch.testing.assert_close(logits[:, :9], others[:, :9])
    assert not torch.allclose(logits[:, 9], others[:, 9])
    torch.testing.assert_close(model(tokens[:, :5]), logits[:, :5], rtol=1e-4, atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    rotation = rotation_of(12, 8)
    query, key = (rotate(torch.randn(8).expand(12, 8), rotation) for _ in range(2))
    products = query @ key.T

    for offset in range(-11, 12):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_its_number_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = GPT(SIZES[size], max_length=16)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())

    assert num_parameters == pytest.approx(float(size[:-1]) * 1e6, rel=0.12)


def test_the_flops_are_those_of_the_formula() -> None:
    """Source: Chowdhery et al., PaLM, 2022, appendix B: 6 N + 12 L H Q T for each token."""
    num_layers, _, width, _ = SIZES["1M"]
    model = make()
    # Of matrices that are multiplied: the tied output layer is one of them.
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "ngrams" not in name]
    batch = torch.randint(256, (1, 17))
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        torch.autograd.backward(compute_loss(model, batch)[0])

    expected = 6 * sum(p.numel() for p in matrices) + 12 * num_layers * width * 16
    assert counter.get_total_flops() == pytest.approx(16 * expected, rel=1e-6)


def test_loss_and_scores_are_those_of_the_next_byte() -> None:
    model = make().eval()
    batch = torch.randint(256, (3, 17))
    logits = model(batch[:, :16])
    losses = cross_entropy(logits.reshape(-1, 256), batch[:, 1:].reshape(-1), reduction="none")
    loss, items = compute_loss(model, batch)
    scores = score(model, batch)

    torch.testing.assert_close(loss, losses.sum())
    assert items == 48
    torch.testing.assert_close(
        scores["token_losses"].float(), losses.view(3, 16), rtol=1e-3, atol=0
    )
    results = summarize(scores)
    assert results["loss"] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert results["perplexity"] == pytest.approx(math.exp(results["loss"]))
    assert results["bits_per_byte"] == pytest.approx(results["loss"] / math.log(2))


def test_matrices_decay_and_the_rate_falls_to_zero() -> None:
    config = replace(CONFIG, warmup_steps=4, learning_rate=2.0, weight_decay=0.1)
    model = make(config)
    optimizer = make_optimizer(model, config)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    assert all(decay[id(p)] == 0.1 * (p.ndim >= 2) for p in model.parameters())
    rates = [set_learning_rate(optimizer, step, config, total_steps=10) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 1, 1.5, 2, *(2 * part / 7 for part in range(6, 0, -1))])


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose model writes "ab" over and over after an a or a b."""
    config = replace(CONFIG, block_size=8)
    model = make(config)
    assert isinstance(model, GPT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1)
        model.embedding.bytes.weight[ord("a"), :2] = torch.tensor([4.0, 0.0])
        model.embedding.bytes.weight[ord("b"), :2] = torch.tensor([0.0, 4.0])
        # A branch that swaps the two features, by way of their squares.
        block = model.blocks[0]
        assert isinstance(block, Block)
        block.norm2.weight.fill_(1)
        block.up.weight[:2, :2] = torch.eye(2)
        block.down.weight[:2, :2] = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    (tmp_path / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
    save_data_info(tmp_path, describe(config))
    save_weights(tmp_path, model.state_dict())
    return tmp_path


def test_prompts_are_completed(run_dir: Path) -> None:
    settings = predict.PredictConfig(
        run_dir=run_dir, prompts=("xa", "b"), num_tokens=12, temperature=0.0
    )

    assert predict.predict(settings) == ["ba" * 6, "ab" * 6]


def test_a_completion_is_drawn_from_the_seed_and_its_own_prompt(run_dir: Path) -> None:
    settings = predict.PredictConfig(
        run_dir=run_dir, prompts=("x", "a"), num_tokens=20, temperature=5.0
    )
    first, second = predict.predict(settings)

    assert predict.predict(replace(settings, prompts=("a",))) == [second]
    assert predict.predict(replace(settings, prompts=("x",), seed=1)) != [first]


@pytest.mark.parametrize("temperature", [1e-320, 1e-5, 1e30])
def test_any_temperature_draws(temperature: float, run_dir: Path) -> None:
    settings = predict.PredictConfig(
        run_dir=run_dir, prompts=("a",), num_tokens=2, temperature=temperature
    )
    assert temperature > 1 or predict.predict(settings) == ["ba"]


def test_predictions_print_as_text_or_json(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--run-dir", str(run_dir), "--temperature", "0", "--num-tokens", "3"]
    monkeypatch.setattr("sys.argv", ["predict", *flags, "a", "b"])
    predict.main()
    assert capsys.readouterr().out == "abab\n\nbaba\n\n"
    monkeypatch.setattr("sys.argv", ["predict", *flags, "--json", "a", "b"])
    predict.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"prompt": "a", "completion": "bab"}, {"prompt": "b", "completion": "aba"}]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "no prompt to complete"),
        (["--temperature", "-1", "x"], "temperature .* at least 0"),
        (["--num-tokens", "0", "x"], "num_tokens .* at least 1"),
    ],
)
def test_a_wrong_setting_of_predict_is_one_line(
    flags: list[str],
    reason: str,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["predict", "--run-dir", str(run_dir), *flags])
    with pytest.raises(SystemExit, match="2"):
        predict.main()
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(reason, line)


def test_any_bytes_are_text() -> None:
    assert to_text([195, 169, 255]) == "é\ufffd"


def test_the_picture_shows_loss_by_context_and_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: drawn.append(figure))
    test_set = load_split("test", CONFIG, describe(CONFIG))
    losses = torch.arange(16).expand(len(test_set), 16).half()
    test = Evaluation(len(test_set), {}, {"token_losses": losses})
    pictures.draw_pictures(tmp_path, test_set, test, describe(CONFIG))
    curve, text = drawn[0].axes

    assert_array_equal(curve.lines[0].get_ydata(), range(16))
    shown = "".join(sign.get_text() for sign in text.texts)
    assert shown.startswith(to_text(test_set[0].tolist()[1:]).replace("\n", " "))
