"""Training images in batches: reproducible random crops and flips, with labels and a teacher's logits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Images:
    """A data set: uint8 NCHW images and labels, and the mean and deviation for normalisation."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (x / 255 - mean) / deviation."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        return (images.float() / 255 - mean) / torch.tensor(self.deviation).view(1, -1, 1, 1)

    def test_batches(self, size: int = 500) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The test set, normalised."""
        starts = range(0, len(self.test), size)
        return [(self.normalised(self.test[i : i + size]), self.test_labels[i : i + size]) for i in starts]


def load_images(dataset: str, folder: Path) -> Images:
    """``mnist`` or ``cifar10`` from a folder with a ``load.py``."""
    sys.path.insert(0, str(folder))
    import load  # type: ignore[import-not-found]

    if dataset == "mnist":
        (x, y), (x_test, y_test) = load.mnist()
        x, x_test, mean, deviation = x[:, None], x_test[:, None], (0.5,), (0.5,)
    else:
        (x, y), (x_test, y_test) = load.cifar10()
        x, x_test = (np.ascontiguousarray(part.transpose(0, 3, 1, 2)) for part in (x, x_test))
        mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    tensors: list[Any] = [torch.from_numpy(np.ascontiguousarray(part)) for part in (x, y, x_test, y_test)]
    return Images(*tensors, mean=mean, deviation=deviation)


class Batches:
    """Batches of an epoch: images shifted by up to ``shift`` pixels (reflected borders), and mirrored where ``flip``.

    Epoch e uses view e modulo ``views``: a view is one fixed draw of shifts and flips for every image, so that a
    teacher computes each view only once. The order is drawn from PyTorch's global generator.

    Args:
        images: data.
        size: of a batch; the last, smaller one is left out.
        shift: pixels.
        flip: whether to mirror.
        views: how many.
        seed: of the views.
        teachers: functions from normalised images to logits; the mean of their logits is the target.
        sides: (first epoch, pixels) in rising order: images are scaled to so many pixels a side from that epoch on
            (early epochs on small images cost little); empty: as they are.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        shift: int,
        *,
        flip: bool,
        views: int,
        seed: int,
        teachers: Sequence[Logits] = (),
        sides: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._images, self._size, self._shift, self._flip = images, size, shift, flip
        self._views, self._seed, self._teachers, self._sides = views, seed, tuple(teachers), sides
        self._logits: dict[int, torch.Tensor] = {}
        self._padded = functional.pad(images.train, (shift,) * 4, mode="reflect") if shift else images.train

    def __call__(self, epoch: int) -> _Epoch:
        """The batches of an epoch."""
        view = epoch % self._views
        order = torch.randperm(len(self._images.train))
        if self._teachers and view not in self._logits:
            self._logits[view] = self._teach(view)
        side = next((pixels for first, pixels in reversed(self._sides) if epoch >= first), None)
        return _Epoch(self, view, order[: len(order) // self._size * self._size].view(-1, self._size), side)

    def _teach(self, view: int) -> torch.Tensor:
        """Mean logits of all images of a view, float16 [n, classes]."""
        pieces = torch.arange(len(self._images.train)).split(250)
        seen = (self._images.normalised(self.pixels(view, piece)) for piece in pieces)
        return torch.cat([torch.stack([teacher(x) for teacher in self._teachers]).mean(0).half() for x in seen])

    def pixels(self, view: int, index: torch.Tensor) -> torch.Tensor:
        """uint8 images of a view."""
        count, channels, height, width = self._images.train.shape
        draw = torch.Generator().manual_seed(self._seed * 100_003 + view)
        down, right = torch.randint(0, 2 * self._shift + 1, (2, count), generator=draw)
        mirrored = torch.rand(count, generator=draw) < (0.5 if self._flip else 0.0)
        rows = down[index][:, None] + torch.arange(height)
        columns = right[index][:, None] + torch.arange(width)
        columns = torch.where(mirrored[index][:, None], columns.flip(1), columns)
        return self._padded[
            index[:, None, None, None],
            torch.arange(channels)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]

    def batch(self, view: int, index: torch.Tensor, side: int | None = None) -> tuple[torch.Tensor, Any]:
        """(x, labels) or (x, (labels, logits)); x scaled to ``side`` pixels, where it is given."""
        x, labels = self._images.normalised(self.pixels(view, index)), self._images.train_labels[index]
        if side is not None and side != x.shape[-1]:
            x = functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        return (x, labels) if not self._teachers else (x, (labels, self._logits[view][index].float()))


class _Epoch:
    def __init__(self, source: Batches, view: int, order: torch.Tensor, side: int | None) -> None:
        self._source, self._view, self._order, self._side = source, view, order, side

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        for index in self._order:
            yield self._source.batch(self._view, index, self._side)


class Distilled:
    """Cross entropy with smoothed labels, mixed with the divergence from a teacher at a temperature (Hinton 2015)."""

    def __init__(self, share: float, temperature: float, smoothing: float) -> None:
        self._share, self._temperature, self._smoothing = share, temperature, smoothing

    def __call__(self, output: torch.Tensor, y: Any) -> torch.Tensor:
        labels, logits = y if isinstance(y, tuple | list) else (y, None)
        loss = functional.cross_entropy(output, labels, label_smoothing=self._smoothing)
        if logits is None or not self._share:
            return loss
        t = self._temperature
        divergence = functional.kl_div(
            functional.log_softmax(output / t, 1), functional.softmax(logits / t, 1), reduction="batchmean"
        )
        return (1 - self._share) * loss + self._share * t * t * divergence
