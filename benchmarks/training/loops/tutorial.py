"""The loop of most tutorials: a `DataLoader`, and `.item()` after each step."""

from torch.nn.utils import clip_grad_norm_

from ..work import Work, compute_loss

work = Work()
model, optimizer, batches = work.model, work.optimizer, work.endless(work.loader())
running_loss = 0.0
for step in range(1, work.steps + 1):
    optimizer.zero_grad()
    for _ in range(work.passes):
        batch = work.to_device(next(batches))
        with work.autocast():
            loss, items = compute_loss(model, batch)
        loss = loss / items
        (loss / work.passes).backward()
    clip_grad_norm_(model.parameters(), work.config.max_grad_norm)
    work.set_rate(step)
    optimizer.step()
    running_loss += loss.item()
    work.recorder.step()
    if step % work.config.log_every == 0:
        print(step, running_loss / work.config.log_every)
        running_loss = 0.0
    if work.evaluates_at(step):
        print(step, work.evaluate())
work.finish()
