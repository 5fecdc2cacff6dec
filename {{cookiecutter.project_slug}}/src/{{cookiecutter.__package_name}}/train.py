"""Train with Accelerate, then test: the same run on whatever the launcher gives it.

Start it as a module, by `python -m`, `torchrun -m` or `accelerate launch -m`; the README says
which suits which machine, and `--plan` says what would run.
"""

import gc
import math

import torch
from torch.nn.parallel import DataParallel

from .accelerated import AutocastForward, check_tracker, make_accelerator, start_tracker
from .checkpoint import save_weights
from .config import TrainConfig, errors_in_one_line, parse_train_config
from .data import load_split
from .devices import find_devices
from .loaders import make_eval_loader, make_train_loader
from .metrics import evaluate, exact_mean, sum_over_ranks
from .model import Classifier, loss_function
from .optimizer import make_optimizer, set_learning_rate
from .plan import make_plan
from .report import Report, print_table
from .results import write_results
from .run_folder import check_run_folder, start_run_folder
from .sampling import seed_forward


def train(config: TrainConfig) -> None:
    """Train, validate and test as `config` says, and leave a run folder.

    Raises:
        SettingError: the settings, the launcher and the machine do not fit together.
    """
    # Devices
    devices = find_devices(config)
    accumulation_steps = config.gradient_accumulation_steps(devices.data_parallel_size)
    check_tracker(config)
    check_run_folder(config, devices)
    accelerator = make_accelerator(config, devices, accumulation_steps)
    device = accelerator.device

    # Data
    train_set = load_split("train", augmented=True)
    validation_set = load_split("validation", augmented=False)
    test_set = load_split("test", augmented=False)
    plan = make_plan(config, devices, num_train_samples=len(train_set))
    train_loader = make_train_loader(train_set, plan)
    validation_loader = make_eval_loader(validation_set, config, devices)
    test_loader = make_eval_loader(test_set, config, devices)

    # Model
    torch.manual_seed(config.seed)
    model = Classifier().to(device)

    # Strategy
    if config.compile:
        model.compile()
    optimizer = make_optimizer(model, config)
    parallel_model, optimizer = accelerator.prepare(model, optimizer)
    if devices.strategy == "data_parallel":
        parallel_model = DataParallel(AutocastForward(model, config.mixed_precision))

    # Loop
    if devices.rank == 0:
        print_table("Plan", plan.rows(model))
    if config.plan:
        accelerator.end_training()
        return
    run_dir = start_run_folder(config, devices)
    track = start_tracker(accelerator, config, run_dir)
    losses = torch.zeros(plan.passes_per_step, device=device)
    batches = iter(train_loader)
    with Report(run_dir, plan, track) as report:
        for step in range(1, plan.total_steps + 1):
            for micro_batch in plan.own_passes:
                inputs, targets = (t.to(device, non_blocking=True) for t in next(batches))
                seed_forward(config.seed, step, micro_batch, devices.devices_per_process)
                with accelerator.accumulate(parallel_model):
                    loss = loss_function(parallel_model(inputs), targets)
                    accelerator.backward(loss)
                losses[micro_batch // devices.devices_per_process] = loss.detach()
            learning_rate = plan.learning_rate_at(step)
            set_learning_rate(optimizer, learning_rate)
            max_norm = config.max_grad_norm or math.inf
            grad_norm = accelerator.clip_grad_norm_(parallel_model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()

            report.advance(step)
            if plan.logs_at(step):
                mean_loss = exact_mean(sum_over_ranks(losses.clone()))
                report.train(
                    step, loss=mean_loss, grad_norm=grad_norm.item(), learning_rate=learning_rate
                )
            if plan.validates_at(step):
                with report.paused():
                    validation = evaluate(parallel_model, validation_loader, device)
                report.evaluation("validation", step, validation)
        with report.paused():
            test = evaluate(parallel_model, test_loader, device)
        report.evaluation("test", step, test)

    # Checkpoint
    state_dict = accelerator.get_state_dict(model)
    if run_dir is not None:
        save_weights(run_dir, state_dict)
        write_results(run_dir, plan, test_set, test, train_seconds=report.train_seconds)
    # Without this order, one run in ten ends with "terminate called without an active exception".
    del model, parallel_model, optimizer
    gc.collect()
    accelerator.wait_for_everyone()
    accelerator.end_training()


def main() -> None:
    """Read the command line and train."""
    with errors_in_one_line():
        train(parse_train_config())


if __name__ == "__main__":
    main()
