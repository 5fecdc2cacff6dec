"""The model, its loss, and what is scored: replace this file, with `data.py`, by your own.

Nothing here knows devices, ranks or strategies. What the programs need of this file: `make_model`,
`compute_loss`, `ITEMS`, `score`, `summarize`, `BEST_RESULT` and `SHARD_UNITS`; `export` also needs
`example_inputs`.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, relu, rms_norm, scaled_dot_product_attention

from .batches.means import exact_mean
from .config import TrainConfig
from .data import VOCABULARY_SIZE, DataInfo

SIZES = {
    "1M": (2, 4, 128, 2**10),
    "10M": (4, 6, 384, 2**11),
    "30M": (6, 8, 512, 2**12),
    "124M": (15, 12, 768, 9 * 2**9),
}
"""Layers, heads, width, and rows of each table of n-grams."""

LONGEST_NGRAM = 6


class Embedding(nn.Module):
    """Bytes (batch, length) int64 to vectors (batch, length, width), from the byte and its n-grams.

    An n-gram's row in its table is a hash: bytes alone say little, and rows cost no FLOPs.

    Source: Pagnoni et al., Byte Latent Transformer, 2024, section 3.2.1.
    """

    def __init__(self, width: int, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.bytes = nn.Embedding(VOCABULARY_SIZE, width)
        self.ngrams = nn.ModuleList(nn.Embedding(num_rows, width) for _ in range(1, LONGEST_NGRAM))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.bytes(tokens)
        hashes = tokens
        for distance, table in enumerate(self.ngrams, start=1):
            earlier = pad(tokens, (distance, 0))[:, : tokens.shape[1]]
            hashes = (31_337 * hashes + earlier + 1) % 1_000_003
            x = x + table(hashes % self.num_rows)
        return x


class Block(nn.Module):
    """Pre-norm transformer block, (batch, length, width) to the same shape.

    Queries and keys are normalized, so that their products stay bounded.

    Source: Vaswani et al., Attention Is All You Need, 2017; Zhang and Sennrich, 2019, for RMSNorm;
    Henry et al., 2020, for the normalized queries and keys; So et al., 2021, for the squared ReLU.
    """

    def __init__(self, num_heads: int, width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        for layer in (self.qkv, self.up):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(width))
        # Each branch starts as zero, and the network as the identity.
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x), rotation)
        return torch.add(x, self.down(relu(self.up(self.norm2(x))).square()))

    def attend(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Return causal self-attention, with rotary positions."""
        heads = *x.shape[:2], self.num_heads, -1
        query, key, value = (part.view(heads).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        query, key = (rotate(rms_norm(part, part.shape[-1:]), rotation) for part in (query, key))
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return joined


class GPT(nn.Module):
    """Bytes (batch, length) int64 to logits of the byte after each, (batch, length, 256).

    The embedding of bytes is also the output layer: tied weights.
    """

    rotation: Tensor

    def __init__(self, size: tuple[int, int, int, int], max_length: int) -> None:
        super().__init__()
        num_layers, num_heads, width, num_rows = size
        # In forward, torch.compile would compute it for each head: a third of a step on a GPU.
        self.register_buffer("rotation", rotation_of(max_length, width // num_heads), False)
        self.embedding = Embedding(width, num_rows)
        self.blocks = nn.ModuleList(Block(num_heads, width) for _ in range(num_layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x, rotation = self.embedding(tokens), self.rotation[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x, rotation)
        return nn.functional.linear(self.norm(x), self.embedding.bytes.weight)


SHARD_UNITS = (Block,)
"""Modules that FSDP2 shards and gathers as a unit: the repeated blocks."""

ITEMS = "tokens"
"""What the loss is a mean over, and the log counts per second: samples, tokens, pixels."""

BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")
"""Which result of the validation is best: its checkpoint is kept, and `patience` counts by it."""


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return GPT(SIZES[config.size], max_length=config.block_size)


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    """Return inputs of the model's forward, for a batch of 2."""
    return (torch.randint(VOCABULARY_SIZE, (2, config.block_size)),)


def compute_loss(model: nn.Module, batch: Tensor) -> tuple[Tensor, int]:
    """Return the sum of the losses of a batch, a scalar, and the number of items it is over."""
    losses = token_losses(model, batch)
    return losses.sum(), losses.numel()


def token_losses(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the loss of each byte but the first, in nats: (batch, block_size) float32."""
    logits = model(batch[:, :-1]).float()
    return cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")


def score(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Return what an evaluation keeps of each sample of a batch; each (batch, ...), any dtype."""
    losses = token_losses(model, batch)
    return {"loss": losses.mean(dim=1), "token_losses": losses.half()}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the results of a split from the scores of all its samples, in their order."""
    loss = exact_mean(scores["loss"])
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / math.log(2)}


def rotation_of(length: int, width: int) -> Tensor:
    """Return cosine and sine of each position's angles, (2, length, width / 2)."""
    frequencies = 10_000 ** -torch.arange(0, 1, 2 / width)
    angles = torch.outer(torch.arange(length), frequencies)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs of features, (..., length, width), by the angles of their positions.

    Source: Su et al., RoFormer, 2021, equation 34.
    """
    (cosine, sine), (first, second) = rotation.unbind(), x.chunk(2, dim=-1)
    pair = first * cosine - second * sine, second * cosine + first * sine
    return torch.cat(pair, dim=-1).type_as(x)
