"""What is wrong in the user's files is one line before training, which names file and function."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    scaled_dot_product_attention,
)
from torch.utils.checkpoint import checkpoint
from torch.utils.data import IterableDataset

from my_run.batches.evaluation import as_numbers
from my_run.run import passes, trial_size, users_code
from my_run.run.contract import check_sum
from my_run.run.samples import norms_of
from my_run.run.trial import (
    Trial,
    try_out,
    try_out_scores,
)
from my_run.settings.errors import SettingError

from .launching import TINY
from .tiny import data, model
from .tiny.config import TrainConfig
from .tiny.data import NUM_FEATURES, load
from .tiny.model import Classifier

CONFIG = TrainConfig()
# PyTorch warns of its own functions.
IMPORTS_TORCH_JIT = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def make() -> nn.Module:
    torch.manual_seed(0)
    return model.make_model(CONFIG, data.describe(CONFIG))


def trial_of(
    compute_loss: Any = model.compute_loss,
    network: nn.Module | None = None,
    train_set: Any = None,
    collate: Any = None,
) -> Trial:
    train_set = load("train", augmented=True) if train_set is None else train_set
    validation_set = load("validation")
    return try_out(train_set, validation_set, collate, CONFIG, network or make(), compute_loss)


def test_a_plan_measures_one_pass_against_several_if_that_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(**changes: Any) -> float | None:
        config = TrainConfig(plan_only=True, **changes)
        sets = load("train"), load("validation")
        return try_out(*sets, None, config, make(), compute_loss).part_of_one_pass

    def compute_loss(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        assert len(batch[1]) <= largest, "as of a mask of that many rows"
        return model.compute_loss(network, batch)

    largest = 64

    part = measured(global_batch_size=64, micro_batch_size=2)
    assert part is not None and 0 < part < 0.7
    assert measured(global_batch_size=64, micro_batch_size=64) is None
    assert trial_of().part_of_one_pass is None
    largest = 4
    assert measured(global_batch_size=64, micro_batch_size=2) is None
    largest = 64
    monkeypatch.setattr(passes, "MOST_FLOPS", 1e3)
    assert measured(global_batch_size=64, micro_batch_size=2) is None


def test_only_a_large_model_is_tried_with_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an exact run, which has one thread."""
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    seen: list[int] = []

    def compute_loss(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        seen.append(torch.get_num_threads())
        return model.compute_loss(network, batch)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    trial_of(compute_loss)
    small = set(seen)
    monkeypatch.setattr(trial_size, "LARGE_MODEL_PARAMETERS", 10)
    seen.clear()
    trial_of(compute_loss)
    after = torch.get_num_threads()
    torch.set_num_threads(before)

    assert (small, set(seen), after) == ({1}, {3}, 1)


def loss_of(network: nn.Module, batch: Any) -> Tensor:
    loss, _ = model.compute_loss(network, batch)
    return loss


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


def broken_collate(samples: Any) -> Any:
    raise KeyError("label")


def test_a_job_without_mistakes_passes_and_its_model_is_as_before() -> None:
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trial = trial_of(network=network)
    assert (trial.without_gradient, trial.changed_state) == ([], [])
    try_out_scores(
        load("validation"), None, network, model.score, model.summarize, model.BEST_RESULT
    )

    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("compute_loss", "reason"),
    [
        (lambda m, b: loss_of(m, b), r"returned a Tensor; return the sum of the losses and"),
        (lambda m, b: (loss_of(m, b) / len(b[1]), len(b[1])), r"returned a mean; return the sum"),
        (lambda m, b: (m(b[0]), len(b[1])), r"returned \(8, 10\) as the loss; return a scalar"),
        (lambda m, b: (loss_of(m, b), 3), r"returned 3 as the number of items of 8 samples"),
        (lambda m, b: (loss_of(m, b).detach(), 8), r"backward pass of compute_loss failed"),
        (lambda m, b: b["images"], r"test_trial\.py|model\.py: compute_loss failed: TypeError"),
    ],
)
def test_a_loss_that_is_wrong_is_named(compute_loss: Callable[..., Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as error:
        trial_of(compute_loss)
    assert "\n" not in str(error.value)


def test_data_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # The user's files are those of the tiny job here, and are named as such.
    monkeypatch.setattr(users_code, "__file__", str(TINY / "run" / "users_code.py"))
    with pytest.raises(SettingError, match=r"data\.py: load_split returned a Stream for train"):
        norms_of("train", cast(Any, Stream()), None)
    with pytest.raises(SettingError, match=r"data\.py: load_split returned no samples for train"):
        norms_of("train", [], None)
    pairs = [(torch.zeros(NUM_FEATURES), torch.tensor(index % 10)) for index in range(20)]
    with pytest.raises(SettingError, match=r"reading a batch .* failed: KeyError: 'label'"):
        trial_of(train_set=pairs, collate=broken_collate)
    labels = [(torch.zeros(NUM_FEATURES), torch.tensor(10 + index)) for index in range(20)]
    with pytest.raises(SettingError, match=r"model\.py, line \d+: compute_loss failed: IndexErr"):
        trial_of(train_set=labels)


@pytest.mark.parametrize(
    ("score", "summarize", "best", "reason"),
    [
        (lambda m, b: m(b[0]), None, None, "score returned a Tensor; return a dictionary"),
        (lambda m, b: {"a": m(b[0]).mean()}, None, None, r"score returned \(\) as 'a' for a batch"),
        (None, lambda scores: 3.0, None, "summarize returned a float; return a dictionary of num"),
        (None, lambda scores: {"step": 1.0, "a": 1.0}, None, "summarize returned step, which met"),
        (None, lambda scores: {"a": scores["loss"]}, None, "summarize returned 'a' as a Tensor"),
        (None, lambda scores: {"a": None}, None, "summarize returned 'a' as a NoneType; return a"),
        (None, None, ("auc", "highest"), r"BEST_RESULT is .*a pair, of one of loss, accuracy"),
        (None, None, "loss", r"BEST_RESULT is 'loss'; make it a pair, of one of loss, accuracy"),
        (None, lambda scores: {}, None, r"one of what summarize returns, which is nothing, and"),
        (None, None, ("loss", "low"), r"BEST_RESULT is .*\"lowest\" or \"highest\""),
    ],
)
def test_scores_that_are_wrong_are_named(
    score: Any, summarize: Any, best: Any, reason: str
) -> None:
    arguments = (score or model.score, summarize or model.summarize, best or model.BEST_RESULT)
    with pytest.raises(SettingError, match=reason):
        try_out_scores(load("validation"), None, make(), *arguments)


def test_results_may_be_scalars_of_torch_and_numpy() -> None:
    found = as_numbers({"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.array(3), "d": True})
    assert found == {"a": 0.5, "b": 0.25, "c": 3, "d": True}
    assert {type(value) for value in found.values()} <= {int, float, bool}


def test_rows_whose_shape_depends_on_the_batch_are_found() -> None:
    """As scores of tokens, padded to the longest text of a batch; and a type that does."""

    def padded(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": torch.zeros(len(batch[1]), 1 + len(batch[1]) // 9)}

    def typed(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {
            "loss": torch.zeros(len(batch[1]), dtype=[torch.int64, torch.half][len(batch[1]) > 1])
        }

    for score, reason in (
        (padded, r"\(n, 8, float32\) and \(n, 1, float32\) as 'loss' for two batches; return rows"),
        (typed, r"\(n, float16\) and \(n, int64\) as 'loss'"),
    ):
        with pytest.raises(SettingError, match=reason):
            try_out_scores(
                load("validation"), None, make(), score, model.summarize, ("loss", "lowest")
            )


def test_a_score_that_fails_for_one_sample_is_found() -> None:
    """The last batch of an evaluation may be so small."""

    def squeezed(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": network(batch[0])[:, :1].squeeze()}

    with pytest.raises(SettingError, match=r"score returned \(\) as 'loss' for a batch of 1"):
        try_out_scores(
            load("validation"), None, make(), squeezed, model.summarize, ("loss", "lowest")
        )


class Caching(nn.Module):
    """Registers a mask in its first forward pass, a longer one later."""

    def __init__(self, is_saved: bool, num_rows: int | None = 0) -> None:
        super().__init__()
        self.layer, self.is_saved = nn.Linear(NUM_FEATURES, 10), is_saved
        self.mask: Tensor
        if num_rows is None:
            self.register_buffer("mask", None, is_saved)
        elif num_rows:
            self.register_buffer("mask", torch.ones(num_rows, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        mask = getattr(self, "mask", None)
        if mask is None or len(mask) < len(inputs):
            self.register_buffer("mask", torch.ones(len(inputs), 1), self.is_saved)
        logits: Tensor = self.layer(inputs) * self.mask[: len(inputs)]
        return logits


def test_a_model_may_register_buffers_in_its_forward_pass() -> None:
    network = Caching(is_saved=False)
    assert trial_of(network=network).changed_state == []
    assert not list(network.buffers())
    empty = Caching(is_saved=False, num_rows=None)
    assert trial_of(network=empty).changed_state == []
    assert empty.mask is None
    grown = Caching(is_saved=True, num_rows=2)
    assert trial_of(network=grown).changed_state == ["mask"]
    assert grown.mask.shape == (2, 1)
    with pytest.raises(
        SettingError, match=r"registers mask, which a new model .* persistent=False"
    ):
        trial_of(network=Caching(is_saved=True))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_of_activations_that_ddp_cannot_train_is_refused(use_reentrant: bool) -> None:
    class Checkpointed(Classifier):
        def forward(self, inputs: Tensor) -> Tensor:
            x = checkpoint(self.blocks, self.stem(inputs), use_reentrant=use_reentrant)
            logits: Tensor = self.head(x)
            return logits

    if not use_reentrant:
        assert trial_of(network=Checkpointed()).without_gradient == []
        return
    with pytest.raises(SettingError, match="called with use_reentrant=True, and DDP would"):
        trial_of(network=Checkpointed())


def test_a_model_whose_state_is_no_tensor_is_refused() -> None:
    class Stateful(Pretrained):
        def get_extra_state(self) -> Any:
            return {"calls": 1}

    with pytest.raises(
        SettingError, match=r"_extra_state of the state is a dict; checkpoints hold"
    ):
        trial_of(network=Stateful())


class Detector(nn.Module):
    """Returns losses in training mode only, as the models of torchvision do."""

    def __init__(self, is_mean: bool) -> None:
        super().__init__()
        self.layer, self.is_mean = nn.Linear(NUM_FEATURES, 10), is_mean

    def forward(self, inputs: Tensor, targets: Tensor) -> Any:
        logits = self.layer(inputs)
        if not self.training:
            return [{"labels": labels} for labels in logits.argmax(1)]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return {"labels": loss / len(targets) if self.is_mean else loss}


def loss_of_detector(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
    return sum(network(*batch).values()), len(batch[1])


def test_a_model_may_have_a_loss_in_training_mode_only() -> None:
    network = Detector(is_mean=False)
    assert trial_of(loss_of_detector, network).items_per_sample == 1
    assert network.training
    with pytest.raises(SettingError, match="returned a mean"):
        trial_of(loss_of_detector, Detector(is_mean=True))


def test_a_mean_is_found_beside_random_numbers() -> None:
    """As of the noise of a diffusion model, or of dropout."""

    def noisy(network: nn.Module, batch: Any, divisor: int = 1) -> tuple[Tensor, int]:
        noise = 0.1 * torch.randn(len(batch[1]), 1)
        return loss_of(network, (batch[0] + noise, batch[1])) / divisor, len(batch[1])

    assert trial_of(noisy).items_per_sample == 1
    with pytest.raises(SettingError, match="returned a mean"):
        trial_of(lambda network, batch: noisy(network, batch, len(batch[1])))


def popped(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
    """Changes its batch, as much code does."""
    inputs, targets = batch["inputs"].mul_(2), batch.pop("targets")
    return model.compute_loss(network, (inputs, targets))


def test_a_loss_may_change_its_batch() -> None:
    def as_dictionary(samples: Any) -> dict[str, Tensor]:
        return {"inputs": samples[0], "targets": samples[1]}

    class Dictionaries(data.Points):
        def __getitems__(self, indices: Any) -> Any:
            return [super().__getitems__(indices)]

    points = load("train")
    samples = Dictionaries(points.inputs, points.targets, augmented=False)
    trial = trial_of(popped, train_set=samples, collate=lambda parts: as_dictionary(parts[0]))
    assert trial.changed_state == []


def test_attention_in_bfloat16_is_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(NUM_FEATURES, 3 * 64 * 8, dtype=torch.bfloat16)
            self.head = nn.Linear(64, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            q, k, v = self.layer(inputs.bfloat16()).view(-1, 1, 8, 192).chunk(3, dim=-1)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            logits: Tensor = self.head(mixed.float().mean(dim=(1, 2)))
            return logits

    torch.manual_seed(0)
    assert trial_of(network=Attention()).changed_state == []


@pytest.mark.parametrize("micro_batch_size", [2, 4, 8])
def test_a_mean_is_found_beside_dropout(micro_batch_size: int) -> None:
    config = TrainConfig(micro_batch_size=micro_batch_size)
    network = nn.Sequential(nn.Dropout(0.9), make())

    def mean(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return loss_of(network, batch) / len(batch[1]), len(batch[1])

    for loss in (model.compute_loss, mean):
        arguments = load("train", augmented=True), load("validation"), None, config, network, loss
        if loss is mean:
            with pytest.raises(SettingError, match="returned a mean"):
                try_out(*arguments)
        else:
            try_out(*arguments)


def test_noise_around_zero_is_no_mean() -> None:
    losses = {1: [5.0, -4.0, 2.0], 2: [0.5, 1.5, 1.0]}

    def measure(samples: list[int], seed: int) -> tuple[Tensor, int]:
        return torch.tensor(losses[len(samples)][seed]), len(samples)

    assert check_sum(measure, [0])
    losses[1] = [1.1, 0.9, 1.0]
    with pytest.raises(SettingError, match="returned a mean"):
        check_sum(measure, [0])

    def fail(samples: list[int], seed: int) -> Any:
        raise SettingError("of another size")

    assert not check_sum(fail, [0])


def test_a_loss_around_zero_with_noise_is_no_mean() -> None:
    def critic(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return (network(torch.randn_like(batch[0])) - network(batch[0])).sum(), len(batch[1])

    for seed in range(20):
        torch.manual_seed(seed)
        network = model.make_model(CONFIG, data.describe(CONFIG))
        assert trial_of(critic, network).items_per_sample == 1


def test_a_loss_for_micro_batches_of_one_size_is_tried_with_that_size() -> None:
    def of_eight(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        assert len(batch[1]) == 8
        return model.compute_loss(network, batch)

    assert trial_of(of_eight).items_per_sample == 1


def test_a_loss_that_depends_on_the_calls_before_is_named() -> None:
    """As one whose second term is raised by a counter that is a global variable."""
    calls: list[int] = []

    def annealed(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        calls.append(1)
        loss, items = model.compute_loss(network, batch)
        return loss * min(1, len(calls) / 40), items

    [name] = trial_of(annealed).changed_state
    assert name.startswith("the loss of the same batch")


def test_only_calls_of_the_model_pass_because_ddp_knows_no_others() -> None:
    def by_attribute(network: Any, batch: Any) -> tuple[Tensor, int]:
        return loss_of(network, batch) / network.head.out_features, len(batch[1])

    def by_method(network: Any, batch: Any) -> dict[str, Tensor]:
        return {"loss": network.score(batch)}

    with pytest.raises(
        SettingError, match=r"under DDP the model can only be called, and has no 'head';"
    ):
        trial_of(by_attribute)
    with pytest.raises(
        SettingError, match=r"score failed: .* can only be called, and has no 'score'"
    ):
        try_out_scores(
            load("validation"), None, make(), by_method, model.summarize, ("loss", "lowest")
        )


class Pretrained(nn.Module):
    def __init__(self, is_kept: bool = False) -> None:
        super().__init__()
        self.backbone, self.is_kept = nn.Sequential(nn.BatchNorm1d(NUM_FEATURES)), is_kept
        self.head = nn.Linear(NUM_FEATURES, 10)
        self.backbone.eval()

    def train(self, mode: bool = True) -> "Pretrained":
        super().train(mode)
        if self.is_kept:
            self.backbone.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(inputs))
        return logits


def test_modules_that_training_takes_out_of_evaluation_mode_are_named() -> None:
    assert trial_of(network=Pretrained()).were_evaluating == ("backbone",)
    assert trial_of(network=Pretrained(is_kept=True)).were_evaluating == ()
    # As libraries return pretrained models.
    network = Pretrained().eval()
    assert trial_of(network=network).were_evaluating == () and network.backbone.training


def test_a_loss_may_have_gradients_in_it() -> None:
    def penalized(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        inputs = batch[0].requires_grad_()
        logits = network(inputs)
        [slope] = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return slope.square().sum() + logits.square().sum(), len(inputs)

    assert trial_of(penalized).has_second_derivative

    def adversarial(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        inputs = batch[0].requires_grad_()
        [slope] = torch.autograd.grad(network(inputs).square().sum(), inputs)
        return network(inputs + 0.1 * slope.sign()).square().sum(), len(inputs)

    assert not trial_of(adversarial).has_second_derivative

    def by_backward(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        inputs = batch[0].requires_grad_()
        torch.autograd.backward(network(inputs).square().sum())
        return network(inputs + 0.1 * inputs.grad.sign()).square().sum(), len(inputs)

    with pytest.raises(SettingError, match=r"compute_loss calls backward\(\); take gradients with"):
        trial_of(by_backward)


@IMPORTS_TORCH_JIT
@pytest.mark.parametrize("is_forward", [False, True])
def test_a_model_inside_functions_of_torch_func_is_refused(is_forward: bool) -> None:
    """DDP ends in an error of a data pointer."""

    def penalized(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        inputs = batch[0]
        if is_forward:
            slopes = torch.func.jvp(network, (inputs,), (torch.ones_like(inputs),))[1]
        else:
            slopes = torch.func.grad(lambda some: network(some).sum())(inputs)
        return slopes.square().sum(), len(inputs)

    with pytest.raises(SettingError, match=r"called by a function of torch\.func, and DDP cannot"):
        trial_of(penalized)


def test_a_sparse_gradient_is_refused() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(2, 10, sparse=True)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.table((inputs[:, 0] > 0).long())
            return logits

    with pytest.raises(SettingError, match=r"table.weight gets a sparse gradient, which can be"):
        trial_of(network=Sparse())


def test_items_and_flops_of_a_sample_are_counted() -> None:
    trial = trial_of()
    matrices = [p for p in make().parameters() if p.ndim == 2]
    # Forward, and backward to weights and inputs, of which the first layer has none.
    expected = 6 * sum(p.numel() for p in matrices) - 2 * matrices[0].numel()
    assert (trial.items_per_sample, trial.flops_per_sample) == (1, expected)

    def of_numpy(network: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        return loss_of(network, batch), np.int64(len(batch[1]))

    assert trial_of(of_numpy).items_per_sample == 1

    def by_feature(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        loss, items = model.compute_loss(network, batch)
        return loss, 5 * items

    assert trial_of(by_feature).items_per_sample == 5
    assert trial_of(lambda m, b: (loss_of(m, b), torch.tensor(3))).items_per_sample is None


def test_the_flops_of_attention_are_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(NUM_FEATURES, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            parts = inputs.view(-1, 1, 4, 4).requires_grad_()
            mixed = scaled_dot_product_attention(parts, parts, parts, is_causal=True)
            logits: Tensor = self.layer(mixed.flatten(1))
            return logits

    # Six products of 4 x 4 matrices; and one layer, forward and backward.
    expected = 6 * 2 * 4**3 + 6 * NUM_FEATURES * 10
    assert trial_of(network=Attention()).flops_per_sample == expected


def test_a_large_model_is_tried_with_two_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_size, "LARGE_MODEL_PARAMETERS", 10)
    sizes: list[int] = []

    def count(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        sizes.append(len(batch[1]))
        return model.score(network, batch)

    def fail(scores: Any) -> dict[str, float]:
        raise AssertionError("two samples may be too few to summarize")

    def count_losses(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        sizes.append(len(batch[1]))
        return model.compute_loss(network, batch)

    try_out_scores(load("validation"), None, make(), count, fail, ("loss", "lowest"))
    trial_of(count_losses)
    # The loss: twice of both, and of one sample, with two seeds and twice.
    assert sizes == [2, 1, 2, 2, 1, 1, 2]


def test_an_operation_without_a_deterministic_kernel_is_named() -> None:
    def put(network: nn.Module, batch: Any) -> tuple[Tensor, int]:
        loss, items = model.compute_loss(network, batch)
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        return loss, items

    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(SettingError, match=r"put_ has no deterministic kernel .* --no-exact"):
            trial_of(put)
    finally:
        torch.use_deterministic_algorithms(False)


class Unusual(nn.Module):
    """With a parameter that is not used, a frozen one, and state that each pass changes."""

    uses = 0

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.idle = nn.Linear(NUM_FEATURES, 10), nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.norm: nn.Module = nn.BatchNorm1d(NUM_FEATURES)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))
        self.temperature, self.random = 1.0, np.random.default_rng(0)
        self.latest = torch.zeros(1)
        self.cache: Tensor | None = None
        self.hidden: Tensor | None = None
        self.steps = {"warmup": 2}

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.uses += 1
        with torch.no_grad():
            self.flat.weight.div_(self.flat.weight.norm())
        self.temperature *= 0.9 + 0.1 * self.random.random()
        self.latest, self.cache, self.shape = inputs.mean(), inputs, inputs.shape
        self.hidden = self.latest if self.hidden is None else self.hidden + self.latest
        logits: Tensor = self.flat(self.norm(inputs)) * self.frozen
        return logits


@IMPORTS_TORCH_JIT
def test_what_is_unusual_in_a_model_is_found() -> None:
    network = Unusual()
    trial = trial_of(network=network)
    assert trial.without_gradient == ["idle.weight", "idle.bias"]
    written = ["flat.weight", "calls", "uses", "temperature", "random", "latest", "hidden"]
    assert trial.changed_state == written
    assert (network.temperature, network.latest, network.cache) == (1.0, torch.zeros(1), None)
    assert not hasattr(network, "shape")
    assert network.state_dict()["norm.num_batches_tracked"] == network.calls == 0
    with pytest.raises(SettingError, match="norm is a SyncBatchNorm"):
        network.norm = nn.SyncBatchNorm(NUM_FEATURES)
        trial_of(network=network)
    compiled: Any = torch.compile(nn.BatchNorm1d(NUM_FEATURES))
    network.norm = compiled
    with pytest.raises(SettingError, match=r"norm was made by torch.compile\(\), which renames"):
        trial_of(network=network)
    for layer in (nn.Embedding(3, 2, max_norm=1.0), nn.EmbeddingBag(3, 2, max_norm=1.0)):
        network.norm = layer
        with pytest.raises(SettingError, match="norm has max_norm, by which a forward pass"):
            trial_of(network=network)
    network.norm = nn.Identity()
    network.norm.max_norm = torch.tensor(1.0)  # Of a layer of the user, which changes no weight.
    trial_of(network=network)
    network.norm = nn.BatchNorm1d(NUM_FEATURES, momentum=None)
    with pytest.raises(SettingError, match="norm is a BatchNorm with momentum None; use a number"):
        trial_of(network=network)
