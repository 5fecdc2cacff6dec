"""Any optimizer: tried before training, kept in checkpoints, the same in shards; or refused."""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from my_run.checkpoint.progress import Progress
from my_run.checkpoint.state import TrainingState
from my_run.checkpoint.store import (
    checkpoint_folder,
    write_checkpoint,
)
from my_run.distributed.devices import Devices
from my_run.run.optimizer_trial import (
    try_out_optimizer,
)
from my_run.settings.errors import SettingError

from .conftest import NEEDS_EXACT_FSDP2
from .launching import PACKAGE, TIMEOUT_SECONDS, read_metrics, run_train, tiny_sources
from .tiny.config import TrainConfig
from .tiny.optimizer import set_learning_rate

CONFIG = TrainConfig()
SINGLE = Devices("single", torch.device("cpu"), 0, 1)
SHARDED = Devices("fsdp2", torch.device("cpu"), 0, 2, exact=True)


class Counting(Optimizer):
    """Keeps numbers in its groups, as Schedule-Free and Prodigy do."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr, "k": 0, "d": torch.tensor(1.0)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            group["d"].mul_(0.9)
            group["total"] = group.get("total", 0.0) + 0.1
            scale = float(group["d"]) * group["total"] / group["k"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    before = state.setdefault("before", torch.zeros_like(parameter))
                    parameter.sub_(parameter.grad + before, alpha=group["lr"] * scale)
                    before.copy_(parameter.grad)


# Every optimizer of PyTorch, so that one that a later version adds is tried too.
CLASSES: dict[str, Any] = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
} | {"Counting": Counting}
REFUSED = {
    "LBFGS": "LBFGS needs a closure, which computes the loss several times in a step",
    "SparseAdam": "a step of SparseAdam failed: RuntimeError: SparseAdam does not support dense",
}
# More of their state and code than by default.
MORE: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9}],
    "Adam": [{}, {"amsgrad": True}, {"fused": True}],
    "Adagrad": [{}, {"initial_accumulator_value": 0.5, "lr_decay": 0.1}],
    "RMSprop": [{}, {"centered": True, "momentum": 0.5}],
}
# These step with whole matrices.
WHOLE = ("Adafactor", "Muon")
WORKING = [
    (name, arguments)
    for name in CLASSES
    if name not in REFUSED
    for arguments in MORE.get(name, [{}])
]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def maker(name: str, **arguments: Any) -> Callable[[nn.Module, Any], Optimizer]:
    """Return a `make_optimizer`; Muon takes matrices alone."""

    def make_optimizer(model: nn.Module, config: Any) -> Optimizer:
        parameters = [p for p in model.parameters() if name != "Muon" or p.ndim == 2]
        optimizer: Optimizer = CLASSES[name](parameters, lr=0.01, **arguments)
        return optimizer

    return make_optimizer


def try_out(
    make_optimizer: Any,
    model: nn.Module,
    devices: Devices = SINGLE,
    set_rate: Any = set_learning_rate,
) -> None:
    try_out_optimizer(make_optimizer, set_rate, CONFIG, model, devices)


def step(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(("name", "arguments"), WORKING)
def test_each_optimizer_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    model, make = make_model(), maker(name, **arguments)
    try_out(make, model)
    optimizer = make(model, CONFIG)
    state = TrainingState(SINGLE, model, optimizer, None)
    for number in (1, 2):
        step(model, optimizer, number)
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path, 2, state.tensors(), {})

    resumed = make_model()
    try_out(make, resumed)
    resumed_optimizer = make(resumed, CONFIG)
    TrainingState(SINGLE, resumed, resumed_optimizer, None).restore(
        Progress(step=2), checkpoint_folder(tmp_path, 2)
    )
    for number in (3, 4):
        step(model, optimizer, number)
        step(resumed, resumed_optimizer, number)
    for weight, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other)
    [group], [resumed_group] = optimizer.param_groups, resumed_optimizer.param_groups
    for key in group.keys() - {"params"}:
        assert group[key] == resumed_group[key], key


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_the_loop_cannot_use_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"^optimizer.py.*{re.escape(REFUSED[name])}"):
        try_out(maker(name), make_model())


class ListInState(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.state[self.param_groups[0]["params"][0]]["history"] = [1, 2]


def foreign(model: nn.Module, config: Any) -> Optimizer:
    return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(2))], lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model, config: None, "make_optimizer returned a NoneType; return one torch.optim"),
        (lambda model, config: torch.optim.SGD([]), "make_optimizer failed: ValueError: optimizer"),
        (lambda model, config: config.nothing, "make_optimizer failed: AttributeError"),
        (
            lambda model, config: ListInState(model.parameters()),
            "ListInState keeps history, a list, in its state; checkpoints hold tensors and numbers",
        ),
        (foreign, "a group has a parameter that the model does not have"),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=rf"^(test_)?optimizer.py.*{re.escape(message)}"):
        try_out(make, make_model())


def test_a_layer_without_a_size_is_one_line() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(
        SettingError, match=r"^model\.py: 1\.weight is of a lazy layer, which has no"
    ):
        try_out(maker("SGD"), model)


def multiply(optimizer: Optimizer, step: int, config: Any, total_steps: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] *= 0.99
    return float(optimizer.param_groups[0]["lr"])


def fall_once(optimizer: Optimizer, step: int, config: Any, total_steps: int) -> float:
    if step == total_steps // 2:
        multiply(optimizer, step, config, total_steps)
    return float(optimizer.param_groups[0]["lr"])


def set_momentum(optimizer: Optimizer, step: int, config: Any, total_steps: int) -> float:
    optimizer.param_groups[0]["momentum"] -= 0.001
    return 0.1


def unfreeze(optimizer: Optimizer, step: int, config: Any, total_steps: int) -> float:
    """Train the first layer from the middle of the run on."""
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.requires_grad_(step > total_steps // 2)
    return 0.1


@pytest.mark.parametrize("is_frozen", [False, True])
def test_parameters_cannot_be_frozen_or_unfrozen_while_training(is_frozen: bool) -> None:
    def make(model: Any, config: Any) -> Optimizer:
        return torch.optim.SGD([{"params": list(layer.parameters())} for layer in model], lr=0.1)

    model = make_model()
    model[0].requires_grad_(not is_frozen)
    with pytest.raises(SettingError, match="set_learning_rate freezes or unfreezes parameters"):
        try_out(make, model, set_rate=unfreeze)


@pytest.mark.parametrize(
    ("set_rate", "message"),
    [
        (lambda optimizer, step, config, total_steps: None, "returned a NoneType; return the rate"),
        (lambda optimizer, step, config, total_steps: step / 0, "failed: ZeroDivisionError"),
        (multiply, "gave another rate for the same step when it was called again"),
        (fall_once, "gave another rate for the same step when it was called again"),
        (set_momentum, "gave another rate for the same step when it was called again"),
    ],
)
def test_a_learning_rate_that_is_no_function_of_the_step_is_one_line(
    set_rate: Any, message: str
) -> None:
    make = maker("SGD", momentum=0.9)
    with pytest.raises(SettingError, match=f"set_learning_rate {message}"):
        try_out(make, make_model(), set_rate=set_rate)


def test_the_trial_leaves_weights_and_random_numbers_alone() -> None:
    model = make_model()
    weights = copy.deepcopy(model.state_dict())
    before = torch.get_rng_state()
    try_out(maker("AdamW"), model)

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_that_the_optimizer_does_not_have_are_frozen() -> None:
    model = make_model()
    last = model[-1]
    try_out(lambda model, config: torch.optim.SGD(last.parameters(), lr=0.1), model)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable == ["2.weight", "2.bias"]


HEAD_ALONE = """

def make_optimizer(model, config):
    return torch.optim.SGD(model.head.parameters(), lr=config.learning_rate, momentum=0.9)
"""


def test_an_optimizer_of_some_parameters_keeps_its_bits_resumed_on_two_processes(
    tmp_path: Path,
) -> None:
    """The others' gradients would add up from step to step, but not before a resumed run."""
    sources = tmp_path / "src"
    shutil.copytree(tiny_sources(), sources)
    with (sources / PACKAGE / "optimizer.py").open("a", encoding="utf-8") as file:
        file.write(HEAD_ALONE)
    flags = [
        "--max-steps",
        6,
        "--checkpoint-every",
        3,
        "--keep-checkpoints",
        0,
        "--warmup-steps",
        2,
    ]
    flags += ["--placement", "cpu", "--tracker", "none", "--eval-every", 0]
    single = run_train(tmp_path / "single", *flags, program="reference.single", sources=sources)
    resumed = tmp_path / "resumed"
    shutil.copytree(single, resumed)
    shutil.rmtree(checkpoint_folder(resumed, 6))
    for file_name in ("summary.json", "model.safetensors"):
        (resumed / file_name).unlink()
    run_train(resumed, *flags, "--resume", "must", num_processes=2, sources=sources)

    assert read_metrics(resumed) == read_metrics(single)
    weights, expected = (load_file(run / "model.safetensors") for run in (resumed, single))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_exact_shards_are_refused_to_an_optimizer_of_whole_matrices() -> None:
    for name, arguments in WORKING:
        if name not in WHOLE:
            try_out(maker(name, **arguments), make_model(), SHARDED)
    for name in WHOLE:
        with pytest.raises(SettingError, match=f"a step of {name} takes whole parameters"):
            try_out(maker(name), make_model(), SHARDED)
        rounded = Devices("fsdp2", torch.device("cpu"), 0, 2)
        try_out(maker(name), make_model(), rounded)


def test_state_that_sharding_has_lost_is_an_error() -> None:
    """Accelerate gives the optimizer other parameters under FSDP2."""
    model = make_model()
    optimizer = torch.optim.Adagrad(model.parameters())
    TrainingState(SINGLE, model, optimizer, None)
    with pytest.raises(SettingError, match="Adagrad has state before the first step, which"):
        TrainingState(SINGLE, make_model(), optimizer, None)


# Two ranks step on shards, each also on whole parameters; then both go on from a checkpoint.
SHARDS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from my_run.distributed.process_group import (
    leave_process_group,
)
from my_run.settings.errors import refused_by_fsdp2
from TESTS.test_optimizer import *

dist.init_process_group("gloo")
rank = dist.get_rank()
devices = Devices("fsdp2", torch.device("cpu"), rank, 2, exact=True)


def step_on_both(sharded, optimizer, whole, of_whole, number):
    step(whole, of_whole, number)
    generator = torch.Generator().manual_seed(number)
    for parameter in sharded.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
    optimizer.step()
    optimizer.zero_grad()


def compare(name, arguments, folder):
    make = maker(name, **arguments)
    model, whole = fully_shard(make_model()), make_model()
    optimizer, of_whole = make(model, CONFIG), make(whole, CONFIG)
    state = TrainingState(devices, model, optimizer, None)
    try:
        for number in (1, 2):
            step_on_both(model, optimizer, whole, of_whole, number)
    except RuntimeError as error:
        return refused_by_fsdp2(error)
    saved = state.tensors()
    if rank == 0:
        (folder / "checkpoints").mkdir(parents=True)
        write_checkpoint(folder, 2, saved, {})
    dist.barrier()
    model = fully_shard(make_model())
    optimizer = make(model, CONFIG)
    state = TrainingState(devices, model, optimizer, None)
    state.restore(Progress(step=2), checkpoint_folder(folder, 2))
    for number in (3, 4):
        step_on_both(model, optimizer, whole, of_whole, number)
    weights = state.weights()
    is_same = all(torch.equal(weights[k], v) for k, v in whole.state_dict().items() if rank == 0)
    return "same" if is_same else "other bits"


for index, (name, arguments) in enumerate(WORKING):
    if name not in WHOLE:
        result = compare(name, arguments, Path(sys.argv[1]) / str(index))
        if rank == 0:
            print(index, result, flush=True)
# Otherwise one run in ten is aborted at its exit.
leave_process_group()
"""


@NEEDS_EXACT_FSDP2
def test_each_optimizer_has_the_same_bits_in_shards_through_a_resume(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    script = tmp_path / "shards.py"
    script.write_text(SHARDS.replace("TESTS", tests.name), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), str(tmp_path)]
    path = os.pathsep.join([str(tiny_sources()), str(tests.parent)])
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    for index, (name, arguments) in enumerate(WORKING):
        if name == "Rprop":
            assert "cannot step on the sharded parameters of FSDP2" in lines[str(index)]
        elif name not in WHOLE:
            assert lines[str(index)] == "same", (name, arguments)
