from pathlib import Path

import numpy as np
import torch
from PIL import Image

from my_run.batches.loaders import MicroBatchReader
from my_run.batches.sampling import MicroBatch
from my_run.config import TrainConfig
from my_run.data import Split, describe, read_inputs
from my_run.model import (
    Classifier,
    compute_loss,
    score,
    summarize,
)

from .launching import load

NUM_CLASSES = len(describe(TrainConfig())["classes"])
SIZES: dict[Split, int] = {"train": 1257, "validation": 180, "test": 360}


def test_the_splits_share_no_image_and_hold_every_class() -> None:
    splits = {split: load(split) for split in SIZES}

    assert {split: len(samples) for split, samples in splits.items()} == SIZES
    images = [image.numpy().tobytes() for samples in splits.values() for image in samples.images]
    assert len(set(images)) == len(images) == 1797
    for samples in splits.values():
        assert set(samples.targets.tolist()) == set(range(NUM_CLASSES))


def test_a_sample_is_an_image_in_the_unit_range_and_its_class() -> None:
    image, target = load("train", augmented=True)[0]

    assert image.shape == (1, 8, 8) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    assert target.shape == () and target.dtype == torch.int64


def test_augmentation_is_a_function_of_the_micro_batch() -> None:
    reader = MicroBatchReader(load("train", augmented=True))
    micro_batch = MicroBatch([3, 1, 4], seed=11)
    images, targets = reader[[micro_batch]]
    again, _ = reader[[micro_batch]]
    others, same_targets = reader[[micro_batch._replace(seed=12)]]
    plain = load("train").images[[3, 1, 4]]

    assert torch.equal(images, again)
    assert not torch.equal(images, others) and torch.equal(targets, same_targets)
    assert 0 < (images - plain).abs().mean() < 0.2


def test_a_data_set_may_read_sample_by_sample() -> None:
    class Numbers(torch.utils.data.Dataset[tuple[float, int]]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> tuple[float, int]:
            return index / 2, index

    halves, numbers = MicroBatchReader(Numbers())[[MicroBatch([1, 2], 0), MicroBatch([5, 6], 0)]]

    assert halves.tolist() == [0.5, 1, 2.5, 3] and numbers.tolist() == [1, 2, 5, 6]


def test_the_model_turns_images_into_logits_whatever_the_batch() -> None:
    torch.manual_seed(0)
    model = Classifier().eval()
    images = torch.rand(6, 1, 8, 8)
    logits = model(images)

    assert logits.shape == (6, NUM_CLASSES)
    torch.testing.assert_close(model(images[:2]), logits[:2])


def test_every_parameter_gets_a_gradient() -> None:
    model = Classifier()
    loss, items = compute_loss(model, (torch.rand(4, 1, 8, 8), torch.arange(4)))

    assert items == 4
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters())))


def test_scores_and_results_agree_with_hand_computed_ones() -> None:
    logits = torch.full((3, NUM_CLASSES), -100.0)
    logits[[0, 1], [2, 5]] = 0.0
    logits[2] = 0.0
    targets = torch.tensor([2, 4, 0])
    # The "images" are the logits.
    scores = score(torch.nn.Identity(), (logits, targets))

    torch.testing.assert_close(scores["loss"], torch.tensor([0.0, 100.0, np.log(10)]).float())
    assert scores["correct"][:2].tolist() == [True, False]
    assert scores["prediction"][:2].tolist() == [2, 5]
    results = summarize({name: values[:2] for name, values in scores.items()})
    assert results == {"loss": 50.0, "accuracy": 0.5}


def test_image_files_become_inputs(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:2, :2] = 255
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    inputs = read_inputs([tmp_path / "corner.png"])

    assert inputs.shape == (1, 1, 8, 8)
    assert inputs[0, 0, 0, 0] == 1 and inputs.sum() == 1
