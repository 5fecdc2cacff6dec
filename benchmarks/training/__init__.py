"""The time of a step in this template's programs, in other trainers and in loops by hand."""
