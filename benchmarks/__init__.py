"""Measurements: each is a session of the noxfile."""
