"""`python -m tests.cluster` says why a Slurm of two machines cannot be started here, if it cannot.

It removes what runs that were killed left behind.
"""

import os
import sys

from .network import NETWORK, Busy, claim, networks, take_down
from .slurm import slurm_obstacle

if reason := slurm_obstacle():
    sys.exit(reason)
# Beside other tests, only those of the process that called it.
is_beside_others = "PYTEST_XDIST_WORKER" in os.environ
message = None
for network in {NETWORK} if is_beside_others else {NETWORK} | networks():
    try:
        with claim(network):
            take_down(network)
    except Busy as error:
        message = str(error)
sys.exit(message)
