"""Lowering rules: which operators become matrices, and how. They are found in ``rules`` and in other packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import onnx_ir as ir

from mcompiler.errors import CompileError, UserError
from mcompiler.ir import Reason, ReasonKind
from mcompiler.passes.lower import rules
from mcompiler.passes.lower.match import Match

ENTRY_POINT_GROUP = "mcompiler.lowerings"
"""Packages register a LoweringRule in this group of entry points: ``name = "package.module:RULE"``."""

OperatorId = tuple[str, str]
"""Domain and operator; the domain of ONNX is empty."""


_GENERAL = Reason(ReasonKind.WHERE_CONSTANT)


@dataclass(frozen=True)
class LoweringRule:
    """How nodes of some operators become matrices.

    Attributes:
        operators: domain and name of each operator.
        match: a node as matrix, or the reason why it stays digital.
        general: the text of ``mcompiler ops`` for the operators.
    """

    operators: tuple[OperatorId, ...]
    match: Callable[[ir.Node], Match | Reason]
    general: Reason = _GENERAL


@dataclass(frozen=True)
class RegisteredRule:
    """A rule, and the package that it comes from, as messages name it; None for our own."""

    rule: LoweringRule
    package: str | None = None

    def match(self, node: ir.Node) -> Match | Reason:
        """A node as matrix, or the reason why it stays digital.

        Raises:
            CompileError: the rule of another package fails; names the package.
        """
        if self.package is None:
            return self.rule.match(node)
        try:
            found: object = self.rule.match(node)  # its annotation may be wrong
        except CompileError:
            raise
        except Exception as error:  # code of others: any kind
            raise CompileError(
                f"the lowering rule of {self.package} failed ({type(error).__name__}: {error}); update or remove it",
                node.name,
            ) from error
        if isinstance(found, Reason) or (isinstance(found, Match) and len(found.weights.shape) == 3):
            return found
        raise CompileError(
            f"the lowering rule of {self.package} returned neither a Match with weights [G, K, N] nor a Reason; "
            "update or remove it",
            node.name,
        )


def operator_id(node: ir.Node) -> OperatorId:
    """Domain and operator of a node."""
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def find_rules() -> Mapping[OperatorId, RegisteredRule]:
    """The rule of every operator that can be lowered.

    Raises:
        UserError: a package registers a rule that cannot be loaded, or for an operator that has one already.
    """
    found = [RegisteredRule(_built_in(module.name)) for module in pkgutil.iter_modules(rules.__path__)]
    found += [_registered(point) for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name)]
    table: dict[OperatorId, RegisteredRule] = {}
    for entry in found:
        for operator in entry.rule.operators:
            other = table.setdefault(operator, entry)
            if other is not entry:
                raise UserError(
                    f"{entry.package} registers a lowering rule for {operator[1]}, for which "
                    f"{'mcompiler' if other.package is None else other.package} has one; remove one of them"
                )
    return table


def _built_in(name: str) -> LoweringRule:
    rule = importlib.import_module(f"{rules.__name__}.{name}").RULE
    assert isinstance(rule, LoweringRule)
    return rule


def _registered(point: EntryPoint) -> RegisteredRule:
    package = f"package '{point.dist.name}'" if point.dist is not None else f"'{point.value}'"
    try:
        rule = point.load()
    except Exception as error:  # code of others: any kind
        raise UserError(
            f"the lowering rule of {package} cannot be loaded ({type(error).__name__}: {error}); update or remove it"
        ) from error
    if not isinstance(rule, LoweringRule):
        raise UserError(
            f"{package} registers no LoweringRule in the group {ENTRY_POINT_GROUP}, but {type(rule).__name__}; update "
            "or remove it"
        )
    return RegisteredRule(rule, package)
