"""The same bits on 1, 2, 4 or 8 processes: gradients summed in one fixed order."""
