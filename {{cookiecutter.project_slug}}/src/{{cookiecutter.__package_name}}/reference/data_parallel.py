"""Train with DataParallel, then test: one process drives all devices of a machine.

Start it by `python -m`, and diff it with `single.py`. DistributedDataParallel is faster: here one
process feeds all devices, and copies the model to them at every forward pass.
"""

import math

import torch
from torch.nn.parallel import DataParallel
from torch.nn.utils import clip_grad_norm_

from ..accelerated import AutocastForward
from ..config import TrainConfig, parse_train_config
from ..data import load_split
from ..devices import find_devices
from ..errors import errors_in_one_line
from ..exact import GradientSum, fix_kernels
from ..loaders import make_eval_loader, make_train_loader
from ..metrics import evaluate, exact_mean, sum_over_ranks
from ..model import Classifier, loss_function
from ..optimizer import make_optimizer, set_learning_rate
from ..plan import make_plan, show_plan
from ..report import Report
from ..results import write_results
from ..run_folder import RunFolder
from ..sampling import COMPILE_OPTIONS, seed_forward
from ..stopping import StopSignals
from ..trackers import check_tracker
from ..training_state import TrainingState


def train(config: TrainConfig) -> None:
    """Train, validate and test as `config` says, and leave a run folder.

    Raises:
        SettingError: the settings and the machine do not fit together.
    """
    # Devices
    devices = find_devices(config, "data_parallel")
    device = devices.device
    accumulation_steps = config.gradient_accumulation_steps(devices.data_parallel_size)
    fix_kernels(devices)
    check_tracker(config)
    run_folder = RunFolder(config, devices)
    if config.plan:
        return show_plan(config, devices, run_folder.progress)

    # Data
    train_set = load_split("train", augmented=True)
    validation_set = load_split("validation", augmented=False)
    test_set = load_split("test", augmented=False)
    start = run_folder.share_progress()
    plan = make_plan(config, devices, num_train_samples=len(train_set), start=start)
    batches = iter(make_train_loader(train_set, plan))
    validation_loader = make_eval_loader(validation_set, config, devices)
    test_loader = make_eval_loader(test_set, config, devices)

    # Model
    torch.manual_seed(config.seed)
    model = Classifier().to(device)
    plan.show(model)

    # Strategy
    if config.compile:
        model.compile(options=COMPILE_OPTIONS)
    parallel_model = DataParallel(AutocastForward(model, config.mixed_precision))
    optimizer = make_optimizer(model, config)
    gradient_sum = GradientSum(parallel_model, plan)
    scaler = torch.amp.GradScaler(device.type, enabled=config.mixed_precision == "fp16")
    state = TrainingState(devices, model, optimizer, scaler)
    state.restore(run_folder)

    # Loop
    losses = torch.zeros(plan.passes_per_step, device=device)
    with Report(plan, run_folder) as report, StopSignals(devices) as stop:
        for step in plan.steps:
            for micro_batch in plan.own_passes:
                inputs, targets = (t.to(device, non_blocking=True) for t in next(batches))
                seed_forward(config.seed, step, micro_batch, devices.devices_per_process)
                with devices.autocast(config.mixed_precision):
                    loss = loss_function(parallel_model(inputs), targets)
                torch.autograd.backward(scaler.scale(loss / accumulation_steps))
                gradient_sum.collect()
                losses[micro_batch // devices.devices_per_process] = loss.detach()
            scaler.unscale_(optimizer)
            max_norm = config.max_grad_norm or math.inf
            grad_norm = clip_grad_norm_(model.parameters(), max_norm)
            set_learning_rate(optimizer, plan.learning_rate_at(step))
            if report.finite.allows(step, losses, grad_norm):
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

            report.advance(step)
            if plan.logs_at(step):
                mean_loss = exact_mean(sum_over_ranks(losses.clone()))
                report.train(step, loss=mean_loss, grad_norm=grad_norm.item())
            if plan.validates_at(step):
                with report.paused(), devices.autocast(config.mixed_precision):
                    validation = evaluate(parallel_model, validation_loader, device)
                report.evaluation("validation", step, validation)
            if stop.agreed() or report.saves_at(step):
                report.checkpoint(step, state)
            if stop.reason:
                break
        if not stop.reason:
            with report.paused(), devices.autocast(config.mixed_precision):
                test = evaluate(parallel_model, test_loader, device)
            report.evaluation("test", plan.total_steps, test)

    # Checkpoint
    write_results(report, state, test_set, stop.reason)


if __name__ == "__main__":
    with errors_in_one_line():
        train(parse_train_config())
