"""The least that a step can take: one batch that stays on the device, no data, no reports."""

from torch.nn.utils import clip_grad_norm_

from ..work import Work, compute_loss

work = Work()
batches = [work.read(list(range(i, i + work.micro_batch_size))) for i in range(work.passes)]
for step in range(1, work.steps + 1):
    for batch in batches:
        with work.autocast():
            loss, items = compute_loss(work.model, batch)
        (loss / (items * work.passes)).backward()
    clip_grad_norm_(work.model.parameters(), work.config.max_grad_norm)
    work.set_rate(step)
    work.optimizer.step()
    work.optimizer.zero_grad()
    work.recorder.step()
work.finish()
