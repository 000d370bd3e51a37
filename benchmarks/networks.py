"""The four networks of Yuan et al. (ISLPED 2019) as PyTorch modules, and the teachers of their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from mcompiler.admm.distributed import ProcessRank, pick_device
from mcompiler.admm.loop import ComputeSettings

Normalisation = tuple[Iterable[float], Iterable[float]]
"""Mean and deviation by channel."""


def lenet5() -> nn.Module:
    """LeNet-5 20-50-500 (LeCun et al. 1998 in Caffe's sizes): 28x28 grey images, 430,500 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def convnet() -> nn.Module:
    """Four convolutions and one product for 32x32 images; layer by layer our choice (docs/results.md says why)."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, kernel, stride, pool in ((32, 5, 2, 0), (64, 3, 1, 2), (128, 3, 1, 2), (2048, 3, 1, 0)):
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(pool)] * bool(pool)
        inputs = outputs
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8192, 10))


def vgg16() -> nn.Module:
    """VGG-16 with batch normalisation for 32x32 images (Simonyan and Zisserman 2014; one product, 512-10)."""
    layers: list[nn.Module] = []
    inputs = 3
    for entry in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, entry, 3, padding=1, bias=False), nn.BatchNorm2d(entry), nn.ReLU()]
        inputs = entry
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the size changes (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images, three projected shortcuts: 11,159,232 convolution weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        layers += [BasicBlock(inputs, outputs, 1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


@torch.no_grad()
def slimmed(model: nn.Module, stages: Iterable[int], inner: int) -> None:
    """Silence channels of a ResNet-18: those that normalisations scale least (network slimming, Liu et al. 2017).

    A silent channel is zero in all that writes and reads it, so that structures are sought among the others and the
    removal of unused paths takes it out of the network.

    Args:
        model: of ``resnet18``; changed in place.
        stages: channels that the shortcut path of each stage keeps.
        inner: channels that every block keeps between its two convolutions.
    """
    parts = dict(enumerate(model.children()))
    writers: list[tuple[nn.Module, nn.Module]] = [(parts[0], parts[1])]
    readers: list[nn.Module] = []
    blocks = [part for part in parts.values() if isinstance(part, BasicBlock)]
    for stage, width in enumerate(stages):
        for block in blocks[2 * stage : 2 * stage + 2]:
            if isinstance(block.shortcut, nn.Sequential):
                writers.append((block.shortcut[0], block.shortcut[1]))
            writers.append((block.conv2, block.norm2))
            _silence([(block.conv1, block.norm1)], [block.conv2], inner)
        readers = [blocks[2 * stage + 1].conv1]
        if stage == 0:
            readers.append(blocks[0].conv1)
        if 2 * stage + 2 < len(blocks):
            following = blocks[2 * stage + 2]
            readers.append(following.conv1)
            readers += [following.shortcut[0]] if isinstance(following.shortcut, nn.Sequential) else []
        else:
            readers.append(parts[len(parts) - 1])
        _silence(writers, readers, width)
        writers = []


def _silence(writers: list[tuple[nn.Module, nn.Module]], readers: list[nn.Module], width: int) -> None:
    """Keep so many of the channels that (layer, normalisation) pairs write and others read."""
    scales = torch.stack([norm.weight.abs() for _, norm in writers]).sum(0)  # type: ignore[operator]
    silent = scales.argsort(descending=True)[width:]
    for layer, norm in writers:
        layer.weight[silent] = 0.0  # type: ignore[operator]
        norm.weight[silent] = 0.0  # type: ignore[operator]
        norm.bias[silent] = 0.0  # type: ignore[operator]
    for layer in readers:
        layer.weight[:, silent] = 0.0  # type: ignore[operator]


class _OptionABlock(nn.Module):
    """A block of the CIFAR ResNets: the shortcut drops pixels and pads channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.grows = inputs != outputs
        self.pad = outputs // 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.grows:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet-20, 32, 44, 56 of He et al. 2016, section 4.2; parameter names as in akamaster's weights."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64)):
            parts = []
            for block in range(blocks):
                parts.append(_OptionABlock(inputs, outputs, 2 if stage and block == 0 else 1))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*parts))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def trained_resnet(path: Path, blocks: int) -> nn.Module:
    """A CIFAR ResNet with akamaster's weights."""
    model = CifarResNet(blocks)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


class Teacher:
    """A trained network on images that were normalised for another one; normalisations folded.

    On a GPU where there is one; in bfloat16 unless that is slower.
    """

    def __init__(
        self,
        model: nn.Module,
        ours: tuple[Iterable[float], Iterable[float]],
        theirs: tuple[Iterable[float], Iterable[float]],
    ) -> None:
        from torch.fx.experimental.optimization import fuse

        mean, deviation = (torch.tensor(list(part)).view(1, -1, 1, 1) for part in ours)
        mean_t, deviation_t = (torch.tensor(list(part)).view(1, -1, 1, 1) for part in theirs)
        self._factor, self._shift = deviation / deviation_t, (mean - mean_t) / deviation_t
        self._device = pick_device(None)
        self._type = (
            torch.float32
            if ComputeSettings(self._device, True, True, ProcessRank()).emulates_bfloat16
            else torch.bfloat16
        )
        self._model = fuse(model.eval()).to(self._device, self._type).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [n, classes]."""
        x = (x * self._factor + self._shift).to(self._device, self._type).to(memory_format=torch.channels_last)
        return self._model(x).float().cpu()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet5": lenet5,
    "convnet": convnet,
    "vgg16": vgg16,
    "resnet18": resnet18,
}

SHAPES = {"lenet5": (1, 28, 28), "convnet": (3, 32, 32), "vgg16": (3, 32, 32), "resnet18": (3, 32, 32)}
"""Of one image."""
