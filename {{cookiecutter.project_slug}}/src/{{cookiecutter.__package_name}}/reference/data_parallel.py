"""Train with DataParallel, then test: one process drives all GPUs of a machine.

Start it with `python -m`. DDP is faster: here one process feeds all GPUs.

Against `single.py`:
- Devices: all GPUs that this process sees.
- Strategy: a wrapper copies the model to each GPU in every forward pass, and gathers the outputs.
"""

import math

import torch
from torch.nn.parallel import DataParallel
from torch.nn.utils import clip_grad_norm_

from ..batches.evaluation import evaluate
from ..batches.loaders import EvaluationLoader, make_train_batches
from ..batches.plan import make_plan
from ..batches.seeds import COMPILE_OPTIONS, seed_all
from ..checkpoint.data_info import as_json
from ..checkpoint.state import TrainingState
from ..config import TrainConfig
from ..data import collate, describe, load_split, prepare
from ..distributed.autocast import AutocastForward
from ..distributed.devices import find_devices
from ..distributed.launch import run_in_this_process
from ..distributed.signals import StopSignals
from ..exact.average import WeightAverage
from ..exact.kernels import use_deterministic_kernels
from ..exact.step import StepSums
from ..model import BEST_RESULT, ITEMS, compute_loss, make_model, score, summarize
from ..optimizer import make_optimizer, set_learning_rate
from ..pictures import draw_pictures
from ..run.folder import RunFolder
from ..run.optimizer_trial import try_out_optimizer
from ..run.plan_table import show_plan, show_plan_only
from ..run.run import Run
from ..run.samples import with_samples
from ..run.start import check_settings, prepare_once
from ..run.trial import try_out, try_out_scores


def train(config: TrainConfig) -> None:
    """Train, validate and test as `config` says; outputs go to the run folder."""
    # Devices
    devices = find_devices(config, "data_parallel")
    device = devices.device
    check_settings(config, devices)
    use_deterministic_kernels(config, devices)
    run_folder = RunFolder(config, devices)

    # Data
    prepare_once(prepare, config)
    info = as_json(describe(config))
    train_set = load_split("train", config, info, augmented=True)
    validation_set = load_split("validation", config, info)
    test_set = load_split("test", config, info)
    data = with_samples(info, train_set, validation_set, test_set, collate, config)

    # Model
    seed_all(config.seed)
    model = make_model(config, info)
    try_out_optimizer(make_optimizer, set_learning_rate, config, model, devices)
    trial = try_out(train_set, validation_set, collate, config, model, compute_loss)
    try_out_scores(validation_set, collate, model, score, summarize, BEST_RESULT)
    if config.plan_only:
        return show_plan_only(config, devices, run_folder, data, len(train_set), model, trial)

    # Strategy
    start = run_folder.broadcast_start(len(train_set), data, model)
    plan = make_plan(config, devices, len(train_set), start.step, start.has_ended(config.patience))
    show_plan(plan, start, info, model, trial)
    model.to(device)
    if config.compile:
        model.compile(options=COMPILE_OPTIONS)
    parallel_model = DataParallel(AutocastForward(model, config.mixed_precision))
    optimizer = make_optimizer(model, config)
    scaler = torch.amp.GradScaler(device.type, enabled=config.mixed_precision == "fp16")
    average = WeightAverage(model, config.ema_decay)
    state = TrainingState(devices, model, optimizer, scaler, average)
    state.restore(start, run_folder.checkpoint)
    sums = StepSums(parallel_model, model, plan, trial.without_gradient, trial.items_per_sample)

    # Loop
    batches = make_train_batches(train_set, collate, plan)
    validation_loader = EvaluationLoader(validation_set, collate, config, devices)
    test_loader = EvaluationLoader(test_set, collate, config, devices)
    with (
        Run(plan, run_folder, state, trial, BEST_RESULT, ITEMS) as run,
        StopSignals(devices) as stop,
    ):
        for step in plan.steps:
            for k in plan.passes:
                batch = next(batches)
                plan.seed_forward(step, k)
                loss, items = compute_loss(parallel_model, batch)
                torch.autograd.backward(scaler.scale(sums.per_item(loss) / len(plan.passes)))
                sums.collect(k, loss, items)
            sums.finish()
            scaler.unscale_(optimizer)
            max_norm = config.max_grad_norm or math.inf
            grad_norm = clip_grad_norm_(model.parameters(), max_norm)
            learning_rate = set_learning_rate(optimizer, step, config, plan.total_steps)
            if run.finite.should_step(step, sums.losses, grad_norm):
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            average.add(step)

            run.advance(step)
            if plan.syncs_at(step):
                run.check()
            if plan.logs_at(step):
                run.log_training(step, sums.mean_loss(), grad_norm, learning_rate)
            if plan.validates_at(step):
                with run.evaluating():
                    validation = evaluate(parallel_model, validation_loader, score, summarize)
                run.log_evaluation("validation", step, validation)
            stop.agree()
            if stop.reason or run.checkpoints.due_at(step):
                run.save(step)
            if stop.reason or run.checkpoints.has_ended:
                break

        test = None
        if not stop.reason:
            with run.evaluating():
                test = evaluate(parallel_model, test_loader, score, summarize)
            run.log_evaluation("test", run.steps_done, test)

        # Checkpoint
        run.finish(test, stop.reason, test_set, draw_pictures)


if __name__ == "__main__":
    run_in_this_process(train, TrainConfig)
