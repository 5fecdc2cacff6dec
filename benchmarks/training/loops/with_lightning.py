"""Lightning: a module with hooks, and its `Trainer` with a TensorBoard logger."""

import tempfile
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from ..work import Work, compute_loss

work = Work()


class Module(lightning.LightningModule):
    """The step, and what happens beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = work.model

    def training_step(self, batch: Any, batch_index: int) -> Any:
        """Return the loss of a pass."""
        loss, items = compute_loss(self.model, batch)
        self.log("train_loss", loss / items)
        return loss / items

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Set the rate of the step that comes."""
        work.set_rate(self.global_step + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return work.optimizer


class Steps(lightning.Callback):
    """Notes steps, and evaluates."""

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Note the step after its last pass."""
        if trainer.global_step == work.recorder.steps_done:
            return
        work.recorder.step()
        if work.evaluates_at(trainer.global_step):
            module.log("validation_loss", work.evaluate())


with tempfile.TemporaryDirectory() as folder:
    trainer = lightning.Trainer(
        accelerator="gpu" if work.is_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if work.config.mixed_precision == "bf16" else "32-true",
        max_steps=work.steps,
        limit_train_batches=work.steps_per_epoch * work.passes,
        accumulate_grad_batches=work.passes,
        gradient_clip_val=work.config.max_grad_norm,
        log_every_n_steps=work.config.log_every,
        logger=TensorBoardLogger(folder),
        callbacks=[Steps()],
        enable_checkpointing=False,
    )
    trainer.fit(Module(), work.loader())
work.model.to(work.device)
work.finish()
