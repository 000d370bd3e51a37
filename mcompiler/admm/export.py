"""The trained model as the chip will compute it, in PyTorch and as QDQ ONNX.

Normalisations are folded into the scales, so that the integer weights stay what training found. The PyTorch twin counts
in the same steps as the compiled model (integer sums, then one scale and one bias in float32): their predictions agree.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.admm.quantise import InputFakeQuantiser, MappedWeight
from mcompiler.errors import CompileError, ModelError
from mcompiler.onnx_export import QuantisedLayer, insert_quantisers, load_model_file, save_model

OPSET = 17
EXACT = 1 << 24
"""Sums below this are exact in float32."""


class ExactLayer(nn.Module):
    """A layer in the arithmetic of the chip with lossless converters.

    Integer codes of the inputs times integer codes of the weights, exact; then scale and bias in float32.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        quantiser: InputFakeQuantiser,
        codes: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> None:
        super().__init__()
        self.layer, self.quantiser = layer, quantiser
        bound = codes.abs().flatten(1).sum(dim=1).max() * quantiser.largest
        self.register_buffer("codes", codes.double() if bound >= EXACT else codes.float())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the layer, its normalisation included."""
        layer = self.layer
        codes = self.codes.double() if x.is_cuda else self.codes  # fast convolutions there are not exact
        q = self.quantiser.codes(x.float()).to(codes.dtype)
        convolution = not isinstance(layer, nn.Linear)
        sums = layer._conv_forward(q, codes, None) if convolution else nn.functional.linear(q, codes)  # type: ignore[operator]
        if x.is_cuda:
            sums = sums.round()
        shape = (-1, *[1] * (x.ndim - 2)) if convolution else (-1,)
        y: torch.Tensor = sums.float() * (self.quantiser.scale * self.scale).reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)


@dataclass(frozen=True)
class FoldedLayer:
    """A layer with its normalisation folded in.

    Attributes:
        codes: int [O, ...] as floats; None where weights stay float.
        weight: float32 [O, ...], codes * scale.
        scale: float32 [O].
        bias: float32 [O] or None.
    """

    codes: torch.Tensor | None
    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None


def fold(module: nn.Module, norm: nn.Module | None) -> FoldedLayer:
    """Fold an evaluated batch normalisation into the layer before it: scale, sign and bias; float64, rounded once."""
    mapped = get_mapped_weight(module)
    if mapped is not None and mapped.levels is not None:
        weight = mapped.codes(get_original_weight(module)).detach().double()
        scale = mapped.scale.reshape(-1).double()
    else:
        weight = _values(module, "weight")
        scale = torch.ones(weight.shape[0], dtype=torch.float64, device=weight.device)
    coded = mapped is not None and mapped.levels is not None
    bias = _values(module, "bias") if isinstance(module.bias, torch.Tensor) else None
    if norm is not None:
        assert isinstance(norm, _BatchNorm)
        if norm.running_var is None:
            raise CompileError(
                "a batch normalisation without running statistics cannot be folded into the layer before it; set "
                "track_running_stats=True"
            )
        gamma = _values(norm, "weight") if norm.affine else torch.ones_like(scale)
        beta = _values(norm, "bias") if norm.affine else torch.zeros_like(scale)
        factor = gamma / torch.sqrt(_values(norm, "running_var") + norm.eps)
        bias = ((0.0 if bias is None else bias) - _values(norm, "running_mean")) * factor + beta
        shape = (-1, *[1] * (weight.ndim - 1))
        if coded:
            weight = weight * torch.sign(factor).reshape(shape)
            scale = torch.where(factor == 0, scale, scale * factor.abs())
        else:
            weight = weight * factor.reshape(shape)
    codes, scale32 = weight.float() if coded else None, scale.float()
    values = weight.float() if codes is None else codes * scale32.reshape(-1, *[1] * (weight.ndim - 1))
    return FoldedLayer(codes, values, scale32, None if bias is None else bias.float())


def _values(module: nn.Module, name: str) -> torch.Tensor:
    value = getattr(module, name)
    assert isinstance(value, torch.Tensor)
    return value.detach().double()


def get_mapped_weight(module: nn.Module) -> MappedWeight | None:
    """The parametrisation of a layer's weight, where it has been projected."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    for entry in module.parametrizations.weight:  # type: ignore[union-attr]
        if isinstance(entry, MappedWeight):
            return entry
    return None


def get_original_weight(module: nn.Module) -> torch.Tensor:
    """The float weight that is trained, behind the parametrisation."""
    if parametrize.is_parametrized(module, "weight"):
        weight: torch.Tensor = module.parametrizations.weight.original  # type: ignore[union-attr,assignment]
        return weight
    return module.weight  # type: ignore[return-value]


def get_input_quantiser(module: nn.Module) -> InputFakeQuantiser | None:
    """The quantiser of a layer's input, where it has one."""
    found = getattr(module, "input_quantiser", None)
    return found if isinstance(found, InputFakeQuantiser) else None


def deployed(
    model: nn.Module, layers: Mapping[str, CompressibleLayer], pairs: Sequence[tuple[str, str]], *, exact: bool
) -> nn.Module:
    """A copy of the model without normalisations behind layers, weights on their levels, for inference.

    Args:
        model: trained model.
        layers: its compressible layers.
        pairs: (layer, normalisation that follows it) by name.
        exact: True: layers compute as the chip does (ExactLayer). False: plain float layers, for export.
    """
    result = copy.deepcopy(model).eval()
    norms = dict(pairs)
    for name in layers:
        module = result.get_submodule(name)
        norm = result.get_submodule(norms[name]) if name in norms else None
        folded = fold(module, norm)
        quantiser = get_input_quantiser(module)
        replacement = _plain(module, folded).to(folded.weight.device)
        if exact and quantiser is not None and quantiser.frozen:
            if folded.codes is None:
                replacement = nn.Sequential(quantiser, replacement)
            else:
                replacement = ExactLayer(replacement, quantiser, folded.codes, folded.scale, folded.bias)
        _replace(result, name, replacement)
        if name in norms:
            _replace(result, norms[name], nn.Identity())
    return result


def _replace(model: nn.Module, name: str, replacement: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, replacement)


def _plain(module: nn.Module, folded: FoldedLayer) -> nn.Module:
    """The layer without parametrisation and hooks."""
    if isinstance(module, nn.Linear):
        plain: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d = nn.Linear(
            module.in_features, module.out_features, bias=folded.bias is not None
        )
    else:
        kind = next(k for k in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, k))
        plain = kind(
            module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,  # type: ignore[arg-type]
            module.dilation, module.groups, folded.bias is not None, module.padding_mode,  # type: ignore[arg-type]
        )  # fmt: skip
    with torch.no_grad():
        plain.weight.copy_(folded.weight)
        if folded.bias is not None and plain.bias is not None:
            plain.bias.copy_(folded.bias)
    return plain.eval()


def to_onnx(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    pairs: Sequence[tuple[str, str]],
    example: tuple[torch.Tensor, ...],
) -> ir.Model:
    """The trained model as QDQ ONNX with a free batch axis; nodes carry the layers' names.

    Raises:
        CompileError: inputs of other than 8 bits, which QDQ of opset 17 cannot carry.
        ModelError: a model that torch.onnx cannot export, a layer that it does not keep.
    """
    norms = dict(pairs)
    quantised = {}
    for name in layers:
        module = model.get_submodule(name)
        quantised[name] = _describe_layer(name, module, model.get_submodule(norms[name]) if name in norms else None)
    plain = deployed(model, layers, pairs, exact=False)
    with torch.no_grad():  # the exporter makes one of weights that are equal; codes take their place anyway
        for number, (name, layer) in enumerate(quantised.items()):
            if layer.codes is not None:
                plain.get_parameter(f"{name}.weight").fill_(number + 1)
    return insert_quantisers(_float_onnx(plain, example), quantised)


def _describe_layer(name: str, module: nn.Module, norm: nn.Module | None) -> QuantisedLayer:
    """What stands in the file for one layer."""
    quantiser, folded, mapped = get_input_quantiser(module), fold(module, norm), get_mapped_weight(module)
    levels = mapped.levels if mapped is not None else None
    table = None
    if levels is not None and not levels.uniform:
        table = np.unique(np.array([*levels.codes, 0], dtype=np.int32))
    codes = None if folded.codes is None else folded.codes.round().to(torch.int32).cpu().numpy()
    scale = folded.scale.cpu().numpy()
    if quantiser is None or not quantiser.frozen:
        return QuantisedLayer(codes, scale, table, None, 0)
    check_input_bits(name, quantiser.bits)
    return QuantisedLayer(codes, scale, table, float(quantiser.scale), int(quantiser.zero_point))


def check_input_bits(name: str, bits: int) -> None:
    """Refuse inputs that QDQ of opset 17 cannot carry.

    Raises:
        CompileError: other than 8 bits.
    """
    if bits != 8:
        raise CompileError(
            f"inputs of {bits} bits cannot be written as QDQ; train with 8 (--set precision.inputs=8), "
            "or leave inputs float (quantisation.inputs = false)",
            name,
        )


def _float_onnx(model: nn.Module, example: tuple[torch.Tensor, ...]) -> ir.Model:
    inputs = ["x"] if len(example) == 1 else [f"x{index}" for index in range(len(example))]
    example = tuple(tensor[:1].cpu() for tensor in example)
    options: dict[str, Any] = {"dynamo": False}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter of readable names announces its retirement
        torch._C._jit_set_onnx_log_output_stream("stderr")  # where it fails it shows the graph
        file = Path(folder) / "float.onnx"
        try:
            torch.onnx.export(
                model.cpu(), example, str(file), opset_version=OPSET, input_names=inputs, output_names=["y"],
                dynamic_axes={name: {0: "n"} for name in [*inputs, "y"]}, do_constant_folding=False, **options,
            )  # fmt: skip
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"torch.onnx cannot export the model: {first}; put what it lacks into plain operators"
            ) from error
        return load_model_file(file)


def write_onnx(model: ir.Model, path: Path) -> None:
    """Write the model, whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    written = save_model(model, beside.parent, beside.name)
    assert written == [beside.name], "a compressed model is small"
    beside.replace(path)
