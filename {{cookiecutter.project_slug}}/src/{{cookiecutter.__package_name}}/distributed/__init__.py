"""Devices, processes and signals: what this job runs on, and the collectives of its ranks."""
