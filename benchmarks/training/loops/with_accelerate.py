"""Accelerate, as its documentation shows it."""

from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR

from ..work import Work, compute_loss

work = Work()
accelerator = Accelerator(
    cpu=not work.is_gpu,
    mixed_precision=work.config.mixed_precision,
    gradient_accumulation_steps=work.passes,
)
scheduler = LambdaLR(work.optimizer, lambda step: 1.0)
model, optimizer, loader, scheduler = accelerator.prepare(
    work.model, work.optimizer, work.loader(), scheduler
)
step = 0
while step < work.steps:
    for batch in loader:
        with accelerator.accumulate(model):
            loss, items = compute_loss(model, batch)
            accelerator.backward(loss / items)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), work.config.max_grad_norm)
                work.set_rate(step + 1)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        step += 1
        work.recorder.step()
        if step % work.config.log_every == 0:
            accelerator.print(step, accelerator.gather(loss.detach()).mean().item())
        if work.evaluates_at(step):
            accelerator.print(step, work.evaluate(model=model))
        if step == work.steps:
            break
work.finish(model)
