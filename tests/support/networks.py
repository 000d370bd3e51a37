"""Networks of PyTorch whose channels can be pruned: the usual shapes, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional

from mcompiler.admm.lowering import as_weight, find_layers


class Vgg(nn.Module):
    """Two convolutions, pools, a view to (n, -1), two products, functional dropout."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=padding),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=padding, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
        )
        self.hidden, self.head = nn.Linear(48, 10), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        x = functional.dropout(functional.relu(self.hidden(x)), 0.5, self.training)
        y: torch.Tensor = self.head(x)
        return y


class Block(nn.Module):
    """A basic block; its shortcut is the identity, a projection or CIFAR's option A."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pads = (outputs - inputs) // 2
        self.shortcut: nn.Module | None = None
        if projection and self.pads:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            out += self.shortcut(x)
        elif self.pads:
            out += functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pads, self.pads), "constant", 0)
        else:
            out += x
        return functional.relu(out)


class ResNet(nn.Module):
    """Three basic blocks, the second with stride."""

    def __init__(self, projection: bool = True) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.layers = nn.Sequential(
            Block(6, 6, 1, projection), Block(6, 10, 2, projection), Block(10, 10, 1, projection)
        )
        self.fc = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(functional.relu(self.bn(self.conv(x))))
        y: torch.Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return y


class DenseNet(nn.Module):
    """Normalise, activate, convolve, concatenate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.transition, self.fc = nn.Conv2d(18, 8, 1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(functional.relu(norm(x)))], 1)
        y: torch.Tensor = self.fc(functional.avg_pool2d(self.transition(x), 2).mean([2, 3]))
        return y


class MobileNet(nn.Module):
    """Depthwise (one and two filters per channel), grouped and pointwise layers, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.depthwise, self.bn = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.pointwise = nn.Conv2d(6, 8, 1)
        self.twofold, self.grouped = nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.squeeze, self.excite, self.fc = nn.Linear(12, 4), nn.Linear(4, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self.bn(self.depthwise(functional.hardswish(self.conv(x)))))
        x = functional.elu(self.grouped(functional.relu(self.twofold(functional.silu(self.pointwise(x))))))
        n, c, _, _ = x.size()
        gate = functional.adaptive_avg_pool2d(x, 1).view(n, c)
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(gate)))).view(n, c, 1, 1)
        y: torch.Tensor = self.fc((x * gate.expand_as(x)).mean((2, 3)))
        return y


class Random(nn.Module):
    """A random network: convolutions of all kinds, activations, pools, sums, products and concatenations, a Flatten."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.plan: list[tuple[str, str]] = []
        draw = random.Random(seed)
        channels, saved = 3, 3
        for index in range(draw.randint(2, 9)):
            kinds = ["conv", "conv", "norm", "act", "pool", "save", "depthwise", "grouped", "cat", "branch"]
            kind, name = draw.choice(kinds) if index else "conv", f"{index}"
            if kind in ("conv", "grouped"):
                outputs = draw.randint(1, 3) * 2
                groups = 2 if kind == "grouped" and channels % 2 == 0 else 1
                size = draw.choice((1, 3))
                self.parts[name] = nn.Conv2d(
                    channels, outputs, size, padding=size // 2, bias=draw.random() < 0.5, groups=groups
                )
                channels = outputs
            elif kind == "depthwise":
                self.parts[name] = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            elif kind == "norm":
                self.parts[name] = nn.BatchNorm2d(channels)
            elif kind == "act":
                self.parts[name] = draw.choice((nn.ReLU(), nn.ReLU(inplace=True), nn.Sigmoid(), nn.PReLU(channels)))
            elif kind == "pool":
                self.parts[name] = draw.choice((nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.Dropout2d()))
            elif kind == "branch":
                self.parts[name] = nn.Conv2d(saved, channels, 3, padding=1)
            elif kind == "save":
                saved = channels
            elif kind == "cat":
                channels += saved
            self.plan.append((kind, name))
        self.product = draw.random() < 0.2
        self.flatten, self.head = nn.Flatten(), nn.Linear(channels * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        saved = x
        for kind, name in self.plan:
            if kind == "save":
                saved = x
                continue
            if kind == "cat":
                x = torch.cat((x, saved), dim=1)
            elif kind == "branch":
                other = self.parts[name](saved)
                x = x * other if self.product else x + other
            elif isinstance(self.parts[name], nn.ReLU):
                x = self.parts[name](x + 0)  # an activation in place must not change what was saved
            else:
                x = self.parts[name](x)
        y: torch.Tensor = self.head(self.flatten(x))
        return y


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg": Vgg,
    "vgg without padding": lambda: Vgg(0),
    "resnet": ResNet,
    "resnet with option A": lambda: ResNet(False),
    "densenet": DenseNet,
    "mobilenet": MobileNet,
}


def settled(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network in float64 and evaluation mode whose normalisations have seen something."""
    torch.manual_seed(seed)
    model = build().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def random_support(model: nn.Module, seed: int, share: float) -> dict[str, torch.Tensor]:
    """Layer -> bool [G, K, N]: filters and input channels stay with a probability, single weights mostly."""
    generator = torch.Generator().manual_seed(seed)

    def chance(shape: tuple[int, ...], p: float) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < p

    found = {}
    for name, layer in find_layers(model).items():
        G, K, N = layer.shape
        channels = chance((G, K // layer.positions, 1), share).repeat_interleave(layer.positions, 1)
        found[name] = chance((G, K, N), 0.9) & chance((G, 1, N), share) & channels
    return found


def masked(model: nn.Module, support: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of the same size with zeros outside the support: what a smaller model is held against."""
    copy = deepcopy(model)
    for name, layer in find_layers(copy).items():
        if name in support:
            layer.weight.data.mul_(as_weight(support[name], layer.weight.shape))
    return copy
