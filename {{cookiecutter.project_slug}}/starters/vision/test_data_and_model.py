"""The files of this project's job; replace it by tests of yours."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

from my_run import data, pictures, predict
from my_run.batches.evaluation import Evaluation
from my_run.batches.loaders import MicroBatchReader
from my_run.batches.sampling import MicroBatch
from my_run.config import TrainConfig
from my_run.data import (
    Images,
    Split,
    describe,
    load_split,
    prepare,
    read_inputs,
)
from my_run.model import (
    compute_loss,
    example_inputs,
    make_model,
    score,
    summarize,
)
from my_run.optimizer import (
    make_optimizer,
    set_learning_rate,
)
from my_run.settings.errors import SettingError

from .launching import SOURCES, run_train

CONFIG = TrainConfig()
INFO = describe(CONFIG)
NUM_CLASSES = 10
SIZES: dict[Split, int] = {"train": 1257, "validation": 180, "test": 360}


def load(split: Split, *, augmented: bool = False) -> Images:
    """Return a split with the default settings."""
    config = TrainConfig()
    return load_split(split, config, describe(config), augmented=augmented)


def test_the_splits_share_no_image_and_hold_every_class() -> None:
    splits = {split: load(split) for split in SIZES}

    assert {split: len(samples) for split, samples in splits.items()} == SIZES
    images = [
        samples[index][0].numpy().tobytes()
        for samples in splits.values()
        for index in range(len(samples))
    ]
    assert len(set(images)) == len(images) == 1797
    for samples in splits.values():
        assert set(samples.targets.tolist()) == set(range(NUM_CLASSES))


def test_a_sample_is_an_image_in_the_unit_range_and_its_class() -> None:
    image, target = load("train", augmented=True)[0]

    assert image.shape == (1, 8, 8) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    assert target.shape == () and target.dtype == torch.int64


def test_augmentation_is_a_function_of_the_micro_batch() -> None:
    reader = MicroBatchReader(load("train", augmented=True))
    micro_batch = MicroBatch([3, 1, 4], seed=11)
    images, targets = reader[[micro_batch]]
    again, _ = reader[[micro_batch]]
    others, same_targets = reader[[micro_batch._replace(seed=12)]]
    plain = torch.stack([load("train")[index][0] for index in (3, 1, 4)])

    assert torch.equal(images, again)
    assert not torch.equal(images, others) and torch.equal(targets, same_targets)
    assert 0 < (images - plain).abs().mean() < 0.2


def test_the_model_turns_images_into_logits_whatever_the_batch() -> None:
    torch.manual_seed(0)
    model = make_model(CONFIG, INFO).eval()
    images = torch.rand(6, 1, 8, 8)
    logits = model(images)

    assert logits.shape == (6, NUM_CLASSES)
    torch.testing.assert_close(model(images[:2]), logits[:2])


def test_every_parameter_gets_a_gradient() -> None:
    model = make_model(CONFIG, INFO)
    loss, items = compute_loss(model, (torch.rand(4, 1, 8, 8), torch.arange(4)))

    assert items == 4
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters())))


def test_scores_and_results_agree_with_hand_computed_ones() -> None:
    logits = torch.full((3, NUM_CLASSES), -100.0)
    logits[[0, 1], [2, 5]] = 0.0
    logits[2] = 0.0
    targets = torch.tensor([2, 4, 0])
    # The "images" are the logits.
    scores = score(torch.nn.Identity(), (logits, targets))

    torch.testing.assert_close(scores["loss"], torch.tensor([0.0, 100.0, np.log(10)]).float())
    assert scores["correct"][:2].tolist() == [True, False]
    assert scores["prediction"][:2].tolist() == [2, 5]
    results = summarize({name: values[:2] for name, values in scores.items()})
    assert results == {"loss": 50.0, "accuracy": 0.5}


def test_image_files_become_inputs(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:2, :2] = 255
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    inputs = read_inputs([tmp_path / "corner.png"], INFO)

    assert inputs.shape == (1, 1, 8, 8)
    assert inputs[0, 0, 0, 0] == 1 and inputs.sum() == 1


def write_folder(folder: Path, mode: str = "RGB", per_class: int = 20) -> TrainConfig:
    """Write images of two classes, of many sizes and formats; return settings that read them."""
    draw = np.random.default_rng(0)
    for value, name in ((60, "dark ones"), (200, "light ones")):
        (folder / name / "more").mkdir(parents=True)
        for index in range(per_class):
            size = tuple(draw.integers(5, 40, 2).tolist())
            suffix = (".png", ".JPG", ".bmp", ".webp")[index % 4]
            file = folder / name / ("more" if index % 3 else "") / f"{index}{suffix}"
            Image.new("RGB", size, (value, value, 0 if mode == "RGB" else value)).convert(
                mode
            ).save(file)
        (folder / name / "notes.txt").write_text("no image")
    return TrainConfig(data_dir=folder, image_size=12)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_folder_of_images_is_read_by_class(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "images")
    prepare(config)
    info = describe(config)

    digest = info.pop("images")
    assert info == {"classes": ["dark ones", "light ones"], "channels": 3, "image_size": 12}
    moved = tmp_path / "images" / "dark ones" / "0.png"
    moved.rename(tmp_path / "images" / "light ones" / "moved.png")
    data.find_images.cache_clear()
    prepare(config)
    assert describe(config)["images"] != digest
    (tmp_path / "images" / "light ones" / "moved.png").rename(moved)
    data.find_images.cache_clear()
    prepare(config)
    splits = {split: load_split(split, config, info) for split in SIZES}
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 28,
        "validation": 4,
        "test": 8,
    }
    for samples in splits.values():
        assert samples.targets.double().mean() == 0.5
        for image, target in (samples[index] for index in range(len(samples))):
            assert image.shape == (3, 12, 12) and image.dtype == torch.float32
            assert image[0].mean() == pytest.approx((60, 200)[int(target)] / 255, abs=0.02)
            assert image[2].max() < 0.02
    loss, _ = compute_loss(make_model(config, info), splits["test"].__getitems__(range(8)))
    assert loss.isfinite()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_grey_images_have_one_channel(mode: str, channels: int, tmp_path: Path) -> None:
    config = write_folder(tmp_path / "images", mode)
    prepare(config)
    info = describe(config)

    assert info["channels"] == channels
    inputs = read_inputs([tmp_path / "images" / "dark ones" / "0.png"], info)
    assert inputs.shape == (1, channels, 12, 12)


def test_a_grey_model_sees_the_luminance_of_a_colour_image(tmp_path: Path) -> None:
    info = {"channels": 1, "image_size": 4}
    colours = Image.new("RGB", (4, 4), (250, 100, 30))
    colours.save(tmp_path / "colours.png")
    colours.convert("L").save(tmp_path / "grey.png")
    found, grey = read_inputs([tmp_path / "colours.png", tmp_path / "grey.png"], info)
    assert found.shape == (1, 4, 4) and torch.equal(found, grey)
    assert grey[0, 0, 0].item() == pytest.approx(137 / 255)


def test_images_are_decoded_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_folder(tmp_path / "images")
    reads: list[Path] = []
    read_image = data.read_image

    def count(file: Path, size: int) -> data.Array:
        reads.append(file)
        return read_image(file, size)

    monkeypatch.setattr(data, "read_image", count)
    prepare(config)
    prepare(config)
    assert len(reads) == 40
    first = tmp_path / "images" / "dark ones" / "0.png"
    shutil.copy(first, first.with_name("new.png"))
    data.find_images.cache_clear()  # As in another process.
    prepare(config)
    assert len(reads) == 40 + 41
    for file in data.find_images(tmp_path / "images"):
        os.utime(file, (1, 1))
    prepare(config)
    assert len(reads) == 40 + 41 + 41
    # Other images under the same names, as old: two change places.
    files = [first, tmp_path / "images" / "light ones" / "0.png", tmp_path / "other.png"]
    for one, other in ((0, 2), (1, 0), (2, 1)):
        files[one].rename(files[other])
    prepare(config)
    assert len(reads) == 40 + 41 + 41 + 41

    def count_otherwise(file: Path, size: int) -> data.Array:
        return count(file, size)

    monkeypatch.setattr(data, "read_image", count_otherwise)
    prepare(config)
    assert len(reads) == 40 + 41 + 41 + 41 + 41


def test_a_16_bit_image_keeps_its_shades(tmp_path: Path) -> None:
    pixels = np.array([[0, 16384], [32768, 65535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")

    (tmp_path / "deep.pgm").write_bytes(b"P5 2 2 65535\n" + pixels.astype(">u2").tobytes())
    for name in ("deep.png", "deep.pgm"):
        assert data.read_image(tmp_path / name, 2)[0].tolist() == [[0, 63], [127, 255]]


def test_hidden_and_dangling_files_are_no_images(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "images")
    folder = tmp_path / "images" / "dark ones"
    (folder / "._0.png").write_bytes(b"of macOS")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "0.png", tmp_path / "images" / ".ipynb_checkpoints")
    prepare(config)
    assert describe(config)["classes"] == ["dark ones", "light ones"]
    assert len(data.find_images(tmp_path / "images")) == 40


def test_transparent_pixels_are_white_and_deep_ones_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (data.read_image(tmp_path / "clear.png", 2) == 255).all()
    for mode in ("I", "F"):
        Image.new(mode, (4, 4), 1).save(tmp_path / "deep.tif")
        with pytest.raises(SettingError, match=r"deep\.tif cannot be .* it has 32 bits per pixel"):
            data.read_image(tmp_path / "deep.tif", 2)


def test_an_image_is_upright_and_cropped_to_its_middle(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:4, 8:16] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 3  # Upside down.
    image.save(tmp_path / "turned.png", exif=exif)
    upright = data.read_image(tmp_path / "turned.png", 4)[0]

    assert (upright[2:] == 255).all() and (upright[:2] == 0).all()


def test_corrupt_images_are_named_before_training(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "images")
    whole = (tmp_path / "images" / "dark ones" / "0.png").read_bytes()
    (tmp_path / "images" / "dark ones" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "light ones" / "empty.jpg").touch()
    with pytest.raises(SettingError, match=r"2 of 42 images .* corrupt.*cut\.png .*empty\.jpg"):
        prepare(config)


def test_a_folder_that_will_not_do_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"none is no folder; give a folder that has a subfol"):
        prepare(TrainConfig(data_dir=tmp_path / "none"))
    (tmp_path / "none").mkdir()
    with pytest.raises(SettingError, match=r"none has no images; give a folder that has a subfol"):
        prepare(TrainConfig(data_dir=tmp_path / "none"))
    write_folder(tmp_path / "split" / "train" / "..")
    for one, other in (("dark ones", "train"), ("light ones", "val")):
        (tmp_path / "split" / one).rename(tmp_path / "split" / other)
    with pytest.raises(SettingError, match=r"has train, val; give .* splits are drawn from it"):
        prepare(TrainConfig(data_dir=tmp_path / "split"))
    shutil.rmtree(tmp_path / "split" / "val")
    data.find_images.cache_clear()
    with pytest.raises(SettingError, match=r"has train; give .* two or more classes"):
        prepare(TrainConfig(data_dir=tmp_path / "split"))
    with pytest.raises(SettingError, match="image_size is for the images of a folder"):
        describe(TrainConfig(image_size=9))
    with pytest.raises(SettingError, match=r"class \w+ ones has too few images, 9; at least 10"):
        prepare(write_folder(tmp_path / "few", per_class=9))
    config = write_folder(tmp_path / "enough", per_class=10)
    prepare(config)
    with pytest.raises(SettingError, match=r"has other classes than the run's data\.json"):
        load_split("train", config, {"classes": ["dark ones"]})


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_folder(tmp_path / "images")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(SettingError, match=r"No space left on device; set TMPDIR"):
        prepare(config)


@pytest.mark.parametrize("image_size", [4, 8, 12, 32, 65])
def test_the_model_takes_images_of_any_size(image_size: int) -> None:
    info = {"classes": ["a", "b", "c"], "channels": 3, "image_size": image_size}
    model = make_model(CONFIG, info).eval()

    assert model(*example_inputs(CONFIG, info)).shape == (2, 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this job, not of the tiny one."""
    flags = ["--max-steps", 24, "--tracker", "none", "--placement", "cpu"]
    return run_train(tmp_path_factory.mktemp("runs") / "digits", *flags, sources=SOURCES)


def test_prediction_names_the_class_of_an_image_file(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, _ = load("test")[0]
    file = tmp_path / "digit.png"
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(file)
    config = TrainConfig()
    model = make_model(config, describe(config)).eval()
    model.load_state_dict(load_file(trained / "model.safetensors"))
    probabilities = model(image.unsqueeze(0))[0].softmax(dim=0)
    expected, probability = probabilities.argmax().item(), probabilities.max().item()
    monkeypatch.setattr(sys, "argv", ["predict", "--run-dir", str(trained), str(file)])
    predict.main()

    assert capsys.readouterr().out == f"{file}: {expected} ({probability:.1%})\n"

    flags = ["--run-dir", str(trained), "--json", *[str(file)] * 5, str(tmp_path / "none.png")]
    monkeypatch.setattr(sys, "argv", ["predict", *flags])
    monkeypatch.setattr(predict, "BATCH_SIZE", 2)
    with pytest.raises(SystemExit, match="2"):
        predict.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # Those of the batches before the one that has a file which cannot be read.
    assert len(lines) == 4
    assert lines[0]["file"] == str(file) and lines[0]["class"] == str(expected)
    assert lines[0]["probability"] == pytest.approx(probability, abs=5e-4)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("L", (8, 8)).save(whole, "PNG")
    files = {
        "text.png": b"no image",
        # Behind the header, which Pillow reads at once, and of which it raises SyntaxError.
        "damaged.png": whole.getvalue()[:33] + b"\0\0\0\0\1\2\3\4" + whole.getvalue()[41:],
        "missing.png": None,
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingError, match=f"{name} cannot be read as an image"):
            read_inputs([tmp_path / name], describe(TrainConfig()))


def test_mistakes_come_first_and_counts_stand_where_the_axes_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: drawn.append(figure))
    targets = [*range(10), 3, 3]
    predictions = [*range(10), 8, 8]
    images = np.zeros((len(targets), 1, 8, 8))
    everything = np.arange(len(targets))
    test_set = Images(images, np.array(targets), everything, augmented=False)
    test = Evaluation(len(targets), {}, {"prediction": torch.tensor(predictions)})
    info = {**describe(TrainConfig()), "classes": [*map(str, range(9)), r"$\frac$"]}
    pictures.draw_pictures(Path("."), test_set, test, info)
    samples, confusion = drawn[0].subfigs
    [matrix] = confusion.axes
    counts = matrix.images[0].get_array()

    titles = [axes.get_title(loc="center") for axes in samples.axes if axes.images]
    assert titles == ["8, is 3", "8, is 3", *map(str, range(9)), r"\$\frac\$"]
    drawn[0].draw_without_rendering()  # Fails on a formula that is none.
    assert (matrix.get_ylabel(), matrix.get_xlabel()) == ("True label", "Predicted label")
    assert counts is not None and (counts[3, 8], counts[8, 3]) == (2, 0)


def test_a_run_of_the_digits_draws_its_picture(trained: Path) -> None:
    with Image.open(trained / "pictures" / pictures.PREDICTIONS_FILE) as image:
        assert min(image.size) > 400


def test_only_kernels_and_matrices_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.1))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (0.9, True)
    }


def test_the_peak_rate_comes_after_the_warm_up() -> None:
    config = TrainConfig(learning_rate=2.0, warmup_steps=4)
    optimizer = make_optimizer(torch.nn.Linear(2, 3), config)
    rates = [set_learning_rate(optimizer, step, config, total_steps=23) for step in range(1, 24)]

    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert 0 < rates[-1] < 0.02
