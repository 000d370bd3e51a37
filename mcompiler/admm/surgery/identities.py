"""Identities of channels, ties between them (union-find), and pins with their reasons."""

from __future__ import annotations

import torch


class ChannelIds:
    """Creates identities, and records which are tied together and which must stay."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._pins: dict[int, str] = {}

    def create(self, count: int) -> torch.Tensor:
        """[count] new identities."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def tie(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Tie identities together, pair by pair."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            a, b = self._find_root(a), self._find_root(b)
            self._parents[max(a, b)] = min(a, b)

    def pin(self, ids: torch.Tensor, reason: str) -> None:
        """Record that identities must stay; the first reason is kept."""
        for identity in ids.tolist():
            self._pins.setdefault(identity, reason)

    def find_classes(self) -> tuple[torch.Tensor, dict[int, str]]:
        """[identities] the class of each, numbered without gaps, and the reasons of the pinned classes."""
        roots = [self._find_root(identity) for identity in range(len(self._parents))]
        number = {root: i for i, root in enumerate(dict.fromkeys(roots))}
        classes = torch.tensor([number[root] for root in roots], dtype=torch.long)
        pins: dict[int, str] = {}
        for identity, reason in self._pins.items():
            pins.setdefault(int(classes[identity]), reason)
        return classes, pins

    def _find_root(self, identity: int) -> int:
        parents = self._parents
        while parents[identity] != identity:
            parents[identity] = parents[parents[identity]]  # halve the path, so that later searches are short
            identity = parents[identity]
        return identity
