"""Train with FSDP2, then test: one process per device, each with a shard of the model.

Start it with `python -m` (one process per GPU, or two on a CPU) or with `torchrun -m`.

Against `ddp.py`:
- Devices: the strategy's name.
- Strategy: weights, gradients and optimizer state are sharded; blocks are gathered when needed.
- Loop: gradients are reduce-scattered, and clipped by a norm over shards.
"""

import math
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ..batches.evaluation import evaluate
from ..batches.loaders import EvaluationLoader, make_train_batches
from ..batches.plan import make_plan
from ..batches.seeds import COMPILE_OPTIONS
from ..checkpoint.state import TrainingState
from ..config import TrainConfig
from ..data import load_split
from ..distributed.devices import find_devices
from ..distributed.launch import run_in_processes
from ..distributed.process_group import join_process_group
from ..distributed.signals import StopSignals
from ..exact.fsdp2 import clip_shards_
from ..exact.gradients import GradientSum
from ..exact.kernels import use_deterministic_kernels
from ..model import SHARD_UNITS, compute_loss, make_model, score, summarize
from ..optimizer import learning_rate_at, make_optimizer, set_learning_rate
from ..pictures import draw_pictures
from ..run.folder import RunFolder
from ..run.plan_table import show_plan, show_plan_only
from ..run.run import Run
from ..run.start import check_settings


def train(config: TrainConfig) -> None:
    """Train, validate and test as `config` says; outputs go to the run folder."""
    # Devices
    devices = find_devices(config, "fsdp2")
    device = devices.device
    check_settings(config, devices)
    use_deterministic_kernels(devices)
    run_folder = RunFolder(config, devices)
    if config.plan_only:
        return show_plan_only(config, devices, run_folder, load_split, make_model)
    join_process_group(devices)

    # Data
    train_set = load_split("train", augmented=True)
    validation_set = load_split("validation", augmented=False)
    test_set = load_split("test", augmented=False)
    start = run_folder.broadcast_start(len(train_set))
    plan = make_plan(config, devices, num_train_samples=len(train_set), start_step=start.step)
    batches = make_train_batches(train_set, plan)
    validation_loader = EvaluationLoader(validation_set, config, devices)
    test_loader = EvaluationLoader(test_set, config, devices)

    # Model
    torch.manual_seed(config.seed)
    model = make_model().to(device)
    show_plan(plan, start, model)

    # Strategy
    if config.compile:
        model.compile(options=COMPILE_OPTIONS)
    mesh = init_device_mesh(device.type, (devices.world_size,), mesh_dim_names=("shard",))
    for module in model.modules():
        if isinstance(module, SHARD_UNITS):
            fully_shard(module, mesh=mesh)
    parallel_model: Any = fully_shard(model, mesh=mesh)
    optimizer = make_optimizer(model, config)
    scaler = torch.amp.GradScaler(device.type, enabled=config.mixed_precision == "fp16")
    gradient_sum = GradientSum(parallel_model, plan)
    state = TrainingState(devices, model, optimizer, scaler)
    state.restore(start, run_folder.checkpoint)

    # Loop
    losses = torch.zeros(plan.passes_per_step, device=device)
    with Run(plan, run_folder, state) as run, StopSignals(devices) as stop:
        for step in plan.steps:
            for k in plan.passes:
                batch = next(batches)
                plan.seed_forward(step, k)
                # Reduce-scatter in the last pass only; an exact sum needs that of every pass.
                is_last = k == plan.passes[-1]
                parallel_model.set_requires_gradient_sync(is_last or devices.exact)
                with devices.autocast(config.mixed_precision):
                    loss = compute_loss(parallel_model, batch)
                torch.autograd.backward(scaler.scale(loss / len(plan.passes)))
                gradient_sum.collect()
                losses[k] = loss.detach()
            scaler.unscale_(optimizer)
            max_norm = config.max_grad_norm or math.inf
            grad_norm = clip_shards_(model, max_norm, exact=devices.exact)
            learning_rate = learning_rate_at(step, config, plan.total_steps)
            set_learning_rate(optimizer, learning_rate)
            if run.finite.should_step(step, losses, grad_norm):
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

            run.advance(step)
            if plan.syncs_at(step):
                run.check()
            if plan.logs_at(step):
                run.log_training(step, losses, grad_norm, learning_rate)
            if plan.validates_at(step):
                with run.stopwatch.paused(), devices.autocast(config.mixed_precision):
                    validation = evaluate(parallel_model, validation_loader, score, summarize)
                run.log_evaluation("validation", step, validation)
            stop.agree()
            if stop.reason or run.checkpoints.due_at(step):
                run.save(step)
            if stop.reason:
                break

        test = None
        if not stop.reason:
            with run.stopwatch.paused(), devices.autocast(config.mixed_precision):
                test = evaluate(parallel_model, test_loader, score, summarize)
            run.log_evaluation("test", plan.total_steps, test)

        # Checkpoint
        run.finish(test, stop.reason, test_set, draw_pictures)


if __name__ == "__main__":
    run_in_processes(train, TrainConfig)
