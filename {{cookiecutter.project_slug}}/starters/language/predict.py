"""Use a trained model: complete prompts, one byte after another."""

import json
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from annotated_types import Ge, Lt
from torch import Tensor

from .config import TrainConfig
from .data import to_text
from .model import make_model
from .run.trained import TrainedRun
from .settings.bounds import check_bounds
from .settings.command_line import parse_command_line
from .settings.errors import SettingError, check_printed, errors_in_one_line


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedRun):
    """Complete prompts with the trained model of a run folder."""

    num_tokens: Annotated[int, Ge(1)] = 200
    """Bytes to write after each prompt."""

    temperature: Annotated[float, Ge(0)] = 0.8
    """Divides the logits: 0 always takes the most probable byte, 1 draws as the model predicts."""

    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed of each prompt's completion."""

    json: bool = False
    """Print a JSON object per prompt instead of text."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """Texts to complete."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self)
        if not self.prompts:
            raise SettingError("no prompt to complete; add one after the flags, in quotes")


@torch.inference_mode()
def predict(settings: PredictConfig) -> list[str]:
    """Return the completion of each prompt, which does not depend on the other prompts."""
    config, _, model = settings.load(TrainConfig, make_model)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model.to(device)
    completions = []
    for prompt in settings.prompts:
        generator = torch.Generator().manual_seed(settings.seed)
        # An empty prompt is the end of a line.
        tokens = torch.tensor(list((prompt or "\n").encode(errors="surrogateescape")))
        for _ in range(settings.num_tokens):
            context = tokens[-config.block_size :].unsqueeze(0)
            logits = model(context.to(device))[0, -1].float().cpu()
            tokens = torch.cat([tokens, draw(logits, settings.temperature, generator)])
        completions.append(to_text(tokens[-settings.num_tokens :].tolist()))
    return completions


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return a byte drawn from the logits, (1,); the most probable one at temperature 0."""
    if temperature < 1e-6:
        return logits.argmax(keepdim=True)
    probabilities = ((logits - logits.max()) / temperature).softmax(dim=0)
    return torch.multinomial(probabilities, 1, generator=generator)


def main() -> None:
    """Print each prompt and its completion."""
    with errors_in_one_line():
        settings = parse_command_line(PredictConfig)
        for prompt, completion in zip(settings.prompts, predict(settings), strict=True):
            if settings.json:
                line = {"prompt": to_text(prompt.encode(errors="surrogateescape"))}
                print(json.dumps(line | {"completion": completion}))
            else:
                print(f"{prompt}{completion}\n")
        check_printed()


if __name__ == "__main__":
    main()
