"""Devices, processes and signals: what this job runs on, and what its ranks tell each other."""
