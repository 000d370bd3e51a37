"""Networks of the origin paper: channels that are silenced before structures are sought."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch

from tests.support.benchmarks import benchmark

networks = benchmark("networks")
STAGES, INNER = (24, 40, 56, 72), 16


@pytest.fixture(scope="module")
def slimmed() -> tuple[Any, Any]:
    """A network with random normalisations, before and after."""
    torch.manual_seed(0)
    before, after = networks.resnet18(), networks.resnet18()
    for module in before.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    after.load_state_dict(before.state_dict())
    networks.slimmed(after, STAGES, INNER)
    return before.eval(), after.eval()


def blocks(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, networks.BasicBlock)]


def test_so_many_channels_are_left(slimmed: tuple[Any, Any]) -> None:
    """What every block makes, inside and at its end, on images: zero in all channels but those that stay."""
    _, model = slimmed
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda *made: seen.append(made[-1])) for block in blocks(model)]
    inside = [block.norm1.register_forward_hook(lambda *made: seen.append(made[-1])) for block in blocks(model)]
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    for handle in (*handles, *inside):
        handle.remove()
    live = [int((part != 0).any(dim=3).any(dim=2).any(dim=0).sum()) for part in seen]
    assert live[0::2] == [INNER] * 8  # the normalisation of a block comes before its end
    for index, made in enumerate(live[1::2]):
        assert 0 < made <= STAGES[index // 2]


def test_those_stay_that_normalisations_scale_most(slimmed: tuple[Any, Any]) -> None:
    before, after = slimmed
    for old, new in zip(blocks(before), blocks(after), strict=True):
        scales = old.norm1.weight.detach().abs()
        wanted = set(scales.argsort(descending=True)[:INNER].tolist())
        assert set(new.norm1.weight.detach().nonzero().flatten().tolist()) == wanted
    stem, first = list(before.children())[1], blocks(before)[:2]
    path = sum(norm.weight.detach().abs() for norm in (stem, *(block.norm2 for block in first)))
    wanted = set(path.argsort(descending=True)[: STAGES[0]].tolist())
    for norm in (list(after.children())[1], *(block.norm2 for block in blocks(after)[:2])):
        assert set(norm.weight.detach().nonzero().flatten().tolist()) == wanted


def test_nothing_reads_a_silent_channel(slimmed: tuple[Any, Any]) -> None:
    _, model = slimmed
    for block in blocks(model):
        silent = block.norm1.weight.detach() == 0
        assert not block.conv2.weight[:, silent].any()
        assert not block.conv1.weight[silent].any()
    last = list(model.children())[-1]
    silent = blocks(model)[-1].norm2.weight.detach() == 0
    assert int(silent.sum()) == 512 - STAGES[3]
    assert not last.weight[:, silent].any()
