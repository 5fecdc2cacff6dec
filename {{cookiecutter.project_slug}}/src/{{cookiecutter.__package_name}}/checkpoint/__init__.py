"""What a run resumes from: checkpoints that are written atomically and verified when read."""
