"""Runs of a rendered project on the GPUs of this machine, compared: `python -m tests.gpu`."""
