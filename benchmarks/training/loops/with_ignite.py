"""PyTorch Ignite: an `Engine`, with handlers for what happens beside the step."""

from typing import Any

from ignite.engine import Engine, Events
from torch.nn.utils import clip_grad_norm_

from ..work import Work, compute_loss

work = Work()


def update(engine: Engine, batch: Any) -> float:
    """Take one pass, and the optimizer's step after the last."""
    with work.autocast():
        loss, items = compute_loss(work.model, work.to_device(batch))
    loss = loss / items
    (loss / work.passes).backward()
    if engine.state.iteration % work.passes == 0:
        clip_grad_norm_(work.model.parameters(), work.config.max_grad_norm)
        work.set_rate(engine.state.iteration // work.passes)
        work.optimizer.step()
        work.optimizer.zero_grad()
    return loss.item()


def after_step(engine: Engine) -> None:
    """Note the step, log, and evaluate."""
    step = engine.state.iteration // work.passes
    work.recorder.step()
    if step % work.config.log_every == 0:
        print(step, engine.state.output)
    if work.evaluates_at(step):
        print(step, work.evaluate())
    if step == work.steps:
        engine.terminate()


trainer = Engine(update)
trainer.add_event_handler(Events.ITERATION_COMPLETED(every=work.passes), after_step)
num_epochs = -(-work.steps // work.steps_per_epoch)
epoch_length = work.steps_per_epoch * work.passes
trainer.run(work.loader(), max_epochs=num_epochs, epoch_length=epoch_length)
work.finish()
