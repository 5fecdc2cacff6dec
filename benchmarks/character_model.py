"""The loss of an order-3 character model on the text and splits of the language starter.

`nox -s character_model` runs it (a minute). A character model predicts a byte from the three before
it, by how often it followed them in the training split; it is what a GPT has to beat.
"""

import math
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from .projects import render

NUM_BYTES = 256

# Each split as one line of hexadecimal digits: its bytes, of which the last is a target only.
SPLITS = """
from my_run.config import TrainConfig
from my_run.data import describe, load_split

config = TrainConfig()
for split in ("train", "validation", "test"):
    blocks = load_split(split, config, describe(config))
    parts = [blocks[index][:-1] for index in range(len(blocks))]
    text = [token for part in parts for token in part.tolist()]
    print(bytes([*text, int(blocks[len(blocks) - 1][-1])]).hex())
"""


class CharacterModel:
    """Frequencies of bytes after up to `order` bytes, interpolated.

    Source: Witten and Bell, The Zero-Frequency Problem, 1991, method C.
    """

    def __init__(self, text: bytes, order: int) -> None:
        """Count the bytes of a text after each of its contexts."""
        self.order = order
        self.counts: dict[bytes, Counter[int]] = defaultdict(Counter)
        for end, byte in enumerate(text):
            for length in range(min(order, end) + 1):
                self.counts[text[end - length : end]][byte] += 1
        self.totals = {context: sum(counts.values()) for context, counts in self.counts.items()}

    def loss(self, text: bytes) -> float:
        """Return the mean loss of the bytes after the first, in nats."""
        losses = [
            -math.log(self.probability(text[max(0, end - self.order) : end], text[end]))
            for end in range(1, len(text))
        ]
        return math.fsum(losses) / len(losses)

    def probability(self, context: bytes, byte: int) -> float:
        """Return the probability of a byte after a context."""
        probability = 1 / NUM_BYTES
        for length in range(len(context) + 1):
            suffix = context[len(context) - length :]
            if suffix not in self.totals:
                break
            counts, total = self.counts[suffix], self.totals[suffix]
            probability = (counts[byte] + len(counts) * probability) / (total + len(counts))
        return probability


def main(arguments: Sequence[str]) -> None:
    """Print the losses of models of the orders that are given, or of order 3."""
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {"PYTHONPATH": str(render("language", Path(name)))}
        printed = subprocess.run(
            [sys.executable, "-c", SPLITS],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
    train, validation, test = (bytes.fromhex(line) for line in printed.stdout.split())
    for order in map(int, arguments or ["3"]):
        model = CharacterModel(train, order)
        for split, text in (("validation", validation), ("test", test)):
            loss = model.loss(text)
            print(f"order {order}  {split:<10}  {loss:.4f} nats  {loss / math.log(2):.4f} bits")


if __name__ == "__main__":
    main(sys.argv[1:])
