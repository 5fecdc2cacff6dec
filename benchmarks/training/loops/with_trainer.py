"""The `Trainer` of Hugging Face's transformers, with TensorBoard."""

import tempfile
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..work import Work, collate_batch, compute_loss

work = Work()


class LossTrainer(Trainer):  # type: ignore[misc]
    """Its loss is the project's."""

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        """Return the loss of a pass."""
        loss, items = compute_loss(model, inputs["batch"])
        return loss / items


class Steps(TrainerCallback):  # type: ignore[misc]
    """Sets rates, notes steps, and evaluates."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Set the rate of the step that comes."""
        work.set_rate(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Note the step."""
        work.recorder.step()
        if work.evaluates_at(state.global_step):
            print(state.global_step, work.evaluate())


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=not work.is_gpu,
        bf16=work.config.mixed_precision == "bf16",
        max_steps=work.steps,
        per_device_train_batch_size=work.micro_batch_size,
        gradient_accumulation_steps=work.passes,
        max_grad_norm=work.config.max_grad_norm,
        logging_steps=work.config.log_every,
        dataloader_drop_last=True,
        save_strategy="no",
        report_to="tensorboard",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = LossTrainer(
        model=work.model,
        args=arguments,
        train_dataset=work.train_set,
        data_collator=lambda batch: {"batch": collate_batch(batch)},
        optimizers=(work.optimizer, LambdaLR(work.optimizer, lambda step: 1.0)),
        callbacks=[Steps()],
    )
    trainer.train()
work.finish()
