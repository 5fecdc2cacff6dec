"""`python -m tests.cluster` says why a Slurm of two machines cannot be started here, if it cannot.

It removes what a run that was killed left behind.
"""

import sys

from .network import Busy, claim, take_down
from .slurm import slurm_obstacle

if reason := slurm_obstacle():
    sys.exit(reason)
try:
    with claim():
        take_down()
except Busy as error:
    sys.exit(str(error))
