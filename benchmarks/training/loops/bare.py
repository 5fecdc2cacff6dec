"""The loop that one would write by hand for this one purpose: as fast as it is simple."""

import torch
from torch.nn.utils import clip_grad_norm_

from ..work import Work, compute_loss

work = Work()
model, optimizer = work.model, work.optimizer
for step in range(1, work.steps + 1):
    index = (step - 1) % work.steps_per_epoch
    if index == 0:
        order = torch.randperm(len(work.train_set))
    samples = order[index * work.batch_size : (index + 1) * work.batch_size]
    for micro_batch in samples.split(work.micro_batch_size):
        batch = work.read(micro_batch.tolist())
        with work.autocast():
            loss, items = compute_loss(model, batch)
        (loss / (items * work.passes)).backward()
    grad_norm = clip_grad_norm_(model.parameters(), work.config.max_grad_norm)
    work.set_rate(step)
    optimizer.step()
    optimizer.zero_grad()
    work.recorder.step()
    if step % work.config.log_every == 0:
        print(step, loss.item() / items, grad_norm.item())
    if work.evaluates_at(step):
        print(step, work.evaluate())
work.finish()
