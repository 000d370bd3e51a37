"""Batches of training images: what several teachers say of the images that are shown."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch

from tests.support.benchmarks import benchmark

images = benchmark("images")


def colours(x: torch.Tensor) -> torch.Tensor:
    """A teacher: the mean of each channel."""
    return x.mean((2, 3))


def brightest(x: torch.Tensor) -> torch.Tensor:
    """Another: the largest pixel of each channel."""
    return x.amax((2, 3))


def test_the_mean_of_the_teachers_is_taught() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(12)
    data = images.Images(pixels, labels, pixels, labels, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    batches = images.Batches(data, 4, 2, flip=True, views=2, seed=1, teachers=[colours, brightest])
    for epoch in range(3):
        seen = 0
        for x, (shown, logits) in batches(epoch):
            wanted = torch.stack([(image.mean((1, 2)) + image.amax((1, 2))) / 2 for image in x])
            assert torch.allclose(logits, wanted, atol=4e-3)  # kept as float16, of size 3 at most
            seen += len(shown)
        assert seen == 12


def test_without_a_teacher_there_are_labels_alone() -> None:
    pixels, labels = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.arange(4)
    data = images.Images(pixels, labels, pixels, labels, (0.5,), (0.5,))
    (_, shown), *_ = images.Batches(data, 4, 0, flip=False, views=1, seed=0)(0)
    assert sorted(shown.tolist()) == [0, 1, 2, 3]
