"""A real Slurm of two nodes on this machine, and what a user's job does on it."""
