"""The plan of a run as a table: devices, batch arithmetic, steps."""

import os
import socket
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..batches.plan import Plan, make_plan
from ..checkpoint.data_info import SAMPLES
from ..checkpoint.progress import Progress
from ..distributed.devices import Devices
from ..distributed.program import program_name
from ..exact.tree import odd_factor
from ..settings.run_config import RunConfig
from .folder import RunFolder
from .fsdp2_checks import check_for_fsdp2
from .passes import cost_row
from .tables import print_table
from .trial import Trial


def show_plan_only(
    config: RunConfig,
    devices: Devices,
    folder: RunFolder,
    info: dict[str, Any],
    num_train_samples: int,
    model: nn.Module,
    trial: Trial,
) -> None:
    """Print the plan of a run that would write to `folder`; starts and writes nothing.

    Raises:
        SettingError: as `make_plan`, `RunFolder.check_data` and `show_plan`.
    """
    folder.check_data(num_train_samples, info)
    plan = make_plan(config, devices, num_train_samples, folder.start.step)
    show_plan(plan, folder.start, info, model, trial)


def show_plan(
    plan: Plan, start: Progress, info: dict[str, Any], model: nn.Module, trial: Trial
) -> None:
    """Print the plan on rank 0.

    Raises:
        SettingError: FSDP2 cannot train this model, or not with this loss.
    """
    check_for_fsdp2(plan, trial)
    if plan.devices.is_main_process:
        rows = {**plan_rows(plan, start, model, trial), "Data": _data(info)}
        if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
            rows["Run folder"] = f"on {socket.gethostname()}, which is rank 0 and alone writes"
        print_table("Plan", rows)


def _data(info: dict[str, Any]) -> str:
    """Return what `describe` returned, of lists and dictionaries their lengths."""
    values = {name: len(v) if isinstance(v, list | dict) else v for name, v in info.items()}
    values.pop(SAMPLES, None)
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing described"


def plan_rows(plan: Plan, start: Progress, model: nn.Module, trial: Trial) -> dict[str, str]:
    """Return the rows of the table."""
    config, devices = plan.config, plan.devices
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    accumulation = plan.gradient_accumulation_steps
    used = plan.steps_per_epoch * config.global_batch_size
    rest = plan.num_train_samples - used
    epochs = plan.total_steps / plan.steps_per_epoch
    is_float32 = config.mixed_precision == "no"
    precision = "float32" if is_float32 else f"{config.mixed_precision} autocast"
    return {
        "Strategy": _strategy(devices),
        "Precision": precision + (", compiled" if config.compile else ""),
        "Model": f"{num_parameters:,} parameters",
        **_without_gradient(model, trial),
        "Exact": _exact(plan) + "; but for that state" * bool(trial.changed_state),
        "Batch": f"{config.global_batch_size} samples per optimizer step = "
        f"{config.micro_batch_size} per forward pass x {devices.data_parallel_size} "
        f"replica{'s' * (devices.data_parallel_size > 1)} x {accumulation} "
        f"accumulation step{'s' * (accumulation > 1)}",
        **cost_row(plan, trial.part_of_one_pass),
        "Epoch": f"{plan.steps_per_epoch} steps, {used} of {plan.num_train_samples} samples"
        + (f"; {rest} left out, others in each epoch" if rest else ""),
        "Steps": f"{plan.total_steps} optimizer steps ({epochs:.3g} epochs)",
        "Checkpoints": _checkpoints(config),
        **({"Resumed": _resumed(devices, start)} if start.step else {}),
    }


def _without_gradient(model: nn.Module, trial: Trial) -> dict[str, str]:
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    rows = {
        "Frozen": _names(frozen),
        "Training mode": _names(
            trial.were_evaluating,
            ", which make_model left in evaluation mode; override train() to keep it so",
        ),
        "No gradient": _names(trial.without_gradient, "; skipped in steps that do not use them"),
        "State": _names(trial.changed_state, "; changed by forward passes: differs by placement"),
    }
    return {name: text for name, text in rows.items() if text}


def _names(names: Sequence[str], remark: str = "") -> str:
    shown = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    return shown + remark if names else ""


def _strategy(devices: Devices) -> str:
    processes = f"{devices.world_size} process{'es' * (devices.world_size > 1)}"
    if devices.strategy == "data_parallel":
        processes += f" driving {devices.devices_per_process} devices"
    count = torch.get_num_threads()
    is_cpu = devices.device.type == "cpu"
    threads = f", {count} thread{'s' * (count > 1)} each" if is_cpu else ""
    backend = dist.get_default_backend_for_device(devices.device)
    link = f", {backend}" if devices.world_size > 1 else ""
    advice = ""
    if devices.devices_per_process > 1:
        advice = f"; faster: torchrun --nproc-per-node {devices.devices_per_process} -m "
        advice += program_name()
    return f"{devices.strategy}: {processes} on {devices.device.type}{threads}{link}{advice}"


def _exact(plan: Plan) -> str:
    if not plan.devices.exact:
        devices = plan.devices
        reason = f", {devices.strategy} cannot be ({devices.obstacle})" if plan.config.exact else ""
        return f"no{reason}: other placements agree to rounding error"
    odd = odd_factor(plan.devices.world_size)
    num_micro_batches = plan.config.num_micro_batches
    sizes = [odd * 2**power for power in range(num_micro_batches.bit_length())]
    same = ", ".join(str(size) for size in sizes if num_micro_batches % size == 0)
    processes = "process" if same == "1" else "processes"
    return f"the same bits on {same} {processes}, with this hardware and these versions"


def _checkpoints(config: RunConfig) -> str:
    every, keep = config.checkpoint_every, config.keep_checkpoints
    if not every:
        return "only when a signal stops the run"
    kept = f"the latest {keep} and the best are kept" if keep else "all are kept"
    return f"every {every} steps and after the best validation; {kept}"


def _resumed(devices: Devices, start: Progress) -> str:
    where = f"after step {start.step}, computed by {start.strategy} on {start.world_size} "
    where += f"process{'es' * (start.world_size > 1)}"
    has_same_tree = odd_factor(devices.world_size) == odd_factor(start.world_size)
    if devices.exact and not (start.exact and has_same_tree):
        where += "; not bitwise equal to an uninterrupted run"
    return where
