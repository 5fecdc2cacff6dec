"""Which samples and which random numbers make micro-batch k of optimizer step s."""
