"""GRAPH: a model as an ONNX graph, where its nodes come from, and the fate of every node of the input model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import onnx_ir as ir

from mcompiler.ir.packing import PacksModels


@dataclass(frozen=True, order=True)
class BodyStep:
    """A step of a path into a body: the node that holds or calls the body, and which body that is.

    Attributes:
        position: index of the node in its graph; -1 in the definition of a function, which no node has called yet.
        body: attribute of the node (``then_branch``, ``body``), or ``domain::name`` of the function that it calls.
    """

    position: int
    body: str


@dataclass(frozen=True, order=True)
class Origin:
    """The place of a node in the user's model, which identifies it; names may repeat.

    Attributes:
        path: the bodies that lead from the main graph to the node's graph, outermost first; empty in the main graph.
        position: index of the node in its graph.
    """

    path: tuple[BodyStep, ...]
    position: int

    def __str__(self) -> str:
        return "".join(f"{step.position}/{step.body}/" for step in self.path) + str(self.position)

    def is_below(self, other: Origin) -> bool:
        """Whether this node lies in a body of ``other``, at any depth."""
        depth = len(other.path)
        return (
            len(self.path) > depth and self.path[:depth] == other.path and self.path[depth].position == other.position
        )

    def in_call(self, call: Origin) -> Origin:
        """The place of a function's node, given by its definition, in one call of that function."""
        definition, *inner = self.path
        return Origin((*call.path, BodyStep(call.position, definition.body), *inner), self.position)

    def as_json(self) -> list[int | str]:
        """Positions and bodies in turn, from the main graph inwards."""
        return [*(part for step in self.path for part in (step.position, step.body)), self.position]

    @classmethod
    def from_json(cls, parts: list[int | str]) -> Origin:
        """The origin that ``as_json`` wrote; ValueError for anything else."""
        *outer, position = parts
        path = []
        for place, body in zip(outer[::2], outer[1::2], strict=True):
            if not isinstance(place, int) or not isinstance(body, str):
                raise ValueError(f"{parts} is no origin")
            path.append(BodyStep(place, body))
        if not isinstance(position, int):
            raise ValueError(f"{parts} is no origin")
        return cls(tuple(path), position)


@dataclass(frozen=True)
class Provenance:
    """The nodes of the user's model from which a node of a graph was made; kept in its meta (``mcompiler.provenance``).

    Attributes:
        origins: nodes of the user's model, first the one that this node computes. Empty for a node made from none.
        label: of the first origin, for people.
        helper: the node prepares inputs or outputs of another one of the same origin, which decides the fate.
    """

    origins: tuple[Origin, ...]
    label: str = ""
    helper: bool = False

    def with_origins(self, more: Iterable[Origin]) -> Provenance:
        """The provenance with further origins at the end."""
        return replace(self, origins=tuple(dict.fromkeys((*self.origins, *more))))


@dataclass(frozen=True, order=True)
class ConstantRoot:
    """An initializer or Constant node of the user's model: the bodies around it, and the name of its value."""

    path: tuple[BodyStep, ...]
    name: str


@dataclass(frozen=True)
class ConstantKey:
    """Identity of constant weights: two layers with equal keys hold the same weights, taken from the same constants.

    Attributes:
        roots: the constants of the model that the weights were computed from, in ascending order.
        digest: SHA-256 of the resulting weights, codes and scales; empty where no other layer has these roots.
    """

    roots: tuple[ConstantRoot, ...]
    digest: str


class Fate(StrEnum):
    """Where a node of the input model is computed."""

    ANALOG = "analog"
    DIGITAL = "digital"
    REFUSED = "refused"


class ReasonKind(StrEnum):
    """Why a node has its fate. ``mcompiler.fates`` has the text of each kind."""

    # in crossbars
    CONVOLUTION = "convolution"
    MATRIX_PRODUCT = "matrix_product"
    FOLDED = "folded"
    ABSORBED_AS_BIAS = "absorbed_as_bias"
    WEIGHTS_OF = "weights_of"
    BIAS_OF = "bias_of"
    # inlined: the fate follows from the nodes of the body
    INLINED_CALL = "inlined_call"
    INLINED_BRANCH = "inlined_branch"
    # control flow with layers in its branches
    ANALOG_BRANCHES = "analog_branches"
    # taken out of the graph
    EVALUATED = "evaluated"
    UNUSED = "unused"
    NO_EFFECT = "no_effect"
    REWRITTEN = "rewritten"
    # matrix products that stay digital
    ELEMENT_TYPE = "element_type"
    CONVOLUTION_VARIABLE_WEIGHTS = "convolution_variable_weights"
    CONVOLUTION_VARIABLE_BIAS = "convolution_variable_bias"
    CONVOLUTION_DIMENSIONS = "convolution_dimensions"
    CONVOLUTION_EMPTY = "convolution_empty"
    CONVOLUTION_NEGATIVE_PADDING = "convolution_negative_padding"
    CONVOLUTION_UNKNOWN_PADDING = "convolution_unknown_padding"
    TWO_ACTIVATIONS = "two_activations"
    PRODUCT_EMPTY = "product_empty"
    PRODUCT_UNKNOWN_RANK = "product_unknown_rank"
    PRODUCT_OF_SCALAR = "product_of_scalar"
    RECURRENT = "recurrent"
    TRANSPOSED_CONVOLUTION = "transposed_convolution"
    DEFORMABLE_CONVOLUTION = "deformable_convolution"
    INTEGER_OPERATOR = "integer_operator"
    ATTENTION = "attention"
    EINSUM = "einsum"
    FUSED_OPERATOR = "fused_operator"
    FUSED_ACTIVATION = "fused_activation"
    FUSED_ATTENTION = "fused_attention"
    BLOCK_QUANTISED = "block_quantised"
    # other operators
    FUNCTION_KEPT = "function_kept"
    CONTROL_FLOW = "control_flow"
    QUANTISATION = "quantisation"
    NO_MATRIX_PRODUCT = "no_matrix_product"
    STATED_BY_RULE = "stated_by_rule"
    # operators in general (``mcompiler ops``)
    WHERE_CONSTANT = "where_constant"
    WHERE_FOLDED = "where_folded"
    # refused
    TRAINING_OPERATOR = "training_operator"
    TRAINING_MODE = "training_mode"
    RANDOM_GENERATOR = "random_generator"
    PROCESSOR_LAYOUT = "processor_layout"
    FOREIGN_DOMAIN = "foreign_domain"
    UNKNOWN_OPERATOR = "unknown_operator"


@dataclass(frozen=True)
class NodeRef:
    """A node that a reason refers to: its origin, and the name that texts give it."""

    origin: Origin
    name: str


@dataclass(frozen=True)
class Reason:
    """Why a node has its fate: the kind, and the facts that belong to that kind.

    Attributes:
        kind: which reason.
        into: the node that took this one up: folded into it, its bias, its weights.
        shape: G, K, N of the matrix.
        operator: an operator, function, domain or mode that the text names.
        element: name of an ONNX element type.
        number: number of dimensions, or of analog nodes in an inlined body.
        note: STATED_BY_RULE: the text of a lowering rule of another package.
    """

    kind: ReasonKind
    into: NodeRef | None = None
    shape: tuple[int, int, int] | None = None
    operator: str | None = None
    element: str | None = None
    number: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class ModelNode:
    """A node of the input model.

    Attributes:
        origin: its place; unique.
        name: as in the file, or ``<Op>_<index>`` where that is missing or repeated; unique in the main graph.
        op: its operator.
        label: its PyTorch module path where the file states one, else its name; unique.
    """

    origin: Origin
    name: str
    op: str
    label: str


@dataclass(frozen=True)
class NodeFate:
    """Fate of a node of the input model: one row of the table that ``compile --json`` prints as ``nodes``."""

    node: ModelNode
    fate: Fate
    reason: Reason

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    @property
    def op(self) -> str:
        """Its operator."""
        return self.node.op

    @property
    def label(self) -> str:
        """Its label."""
        return self.node.label


@dataclass(frozen=True)
class GraphProgram(PacksModels):
    """A model as ONNX graph.

    Attributes:
        model: the graph; never edited in place (a pass works on ``model.clone()``). Every node carries its Provenance.
        nodes: every node of the main graph of the input model, in order.
        fates: fates decided so far, by origin: folded, evaluated, removed, inlined.
        dims: sizes taken for symbolic dimensions other than the sample axis, by name.
    """

    model: ir.Model
    nodes: tuple[ModelNode, ...]
    fates: Mapping[Origin, NodeFate] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
