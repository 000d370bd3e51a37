"""The trained model in the arithmetic of the chip, in PyTorch and as QDQ ONNX.

Normalisations are folded into the scales, so that the integer weights of training do not change. The PyTorch copy
computes in the same steps as the compiled model (integer sums, then one scale and one bias in float32), so that their
predictions agree.
"""

from __future__ import annotations

import copy
import inspect
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

from mcompiler.admm.input_quantiser import InputFakeQuantiser
from mcompiler.admm.inputs import Inputs, find_given_parameters, move_inputs, order_inputs, take_samples
from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.admm.quantise import MappedWeight
from mcompiler.errors import CompileError, ModelError
from mcompiler.onnx_export import QuantisedLayer, insert_quantisers, load_model_file, save_model

OPSET = 17
FLOAT32_EXACT = 1 << 24
"""Integers up to this magnitude are exact in float32."""


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
        self.register_buffer("codes", codes.double() if bound >= FLOAT32_EXACT else codes.float())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the layer, its normalisation included."""
        layer = self.layer
        # Convolutions on a GPU may use reduced precision or transforms, which are not exact on integers in float32; in
        # float64 their error is far below one half, and rounding removes it.
        codes = self.codes.double() if x.is_cuda else self.codes
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
    """A layer with the normalisation that follows it folded in.

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


def fold_batchnorm(module: nn.Module, norm: nn.Module | None) -> FoldedLayer:
    """Fold a batch normalisation, as it is in evaluation, into the layer before it: scale, sign and bias.

    Computed in float64 and rounded once.
    """
    mapped = get_mapped_weight(module)
    if mapped is not None and mapped.levels is not None:
        weight = mapped.codes(get_original_weight(module)).detach().double()
        scale = mapped.scale.reshape(-1).double()
    else:
        weight = _get_float64(module, "weight")
        scale = torch.ones(weight.shape[0], dtype=torch.float64, device=weight.device)
    coded = mapped is not None and mapped.levels is not None
    bias = _get_float64(module, "bias") if isinstance(module.bias, torch.Tensor) else None
    if norm is not None:
        assert isinstance(norm, _BatchNorm)
        if norm.running_var is None:
            raise CompileError(
                "a batch normalisation without running statistics cannot be folded into the layer before it; set "
                "track_running_stats=True"
            )
        gamma = _get_float64(norm, "weight") if norm.affine else torch.ones_like(scale)
        beta = _get_float64(norm, "bias") if norm.affine else torch.zeros_like(scale)
        factor = gamma / torch.sqrt(_get_float64(norm, "running_var") + norm.eps)
        bias = ((0.0 if bias is None else bias) - _get_float64(norm, "running_mean")) * factor + beta
        shape = (-1, *[1] * (weight.ndim - 1))
        # y = factor * (codes * scale) + bias. The sign of the factor goes into the codes (-c is a code where c is), its
        # magnitude into the scale, so that the magnitudes of the codes stay those of training. A factor of 0 makes all
        # codes 0; the scale is kept, since a scale must be positive.
        if coded:
            weight = weight * torch.sign(factor).reshape(shape)
            scale = torch.where(factor == 0, scale, scale * factor.abs())
        else:
            weight = weight * factor.reshape(shape)
    codes, scale32 = weight.float() if coded else None, scale.float()
    values = weight.float() if codes is None else codes * scale32.reshape(-1, *[1] * (weight.ndim - 1))
    return FoldedLayer(codes, values, scale32, None if bias is None else bias.float())


def _get_float64(module: nn.Module, name: str) -> torch.Tensor:
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
    """The float weight that is trained, before the parametrisation is applied."""
    if parametrize.is_parametrized(module, "weight"):
        weight: torch.Tensor = module.parametrizations.weight.original  # type: ignore[union-attr,assignment]
        return weight
    return module.weight  # type: ignore[return-value]


def get_input_quantiser(module: nn.Module) -> InputFakeQuantiser | None:
    """The quantiser of a layer's input, where it has one."""
    found = getattr(module, "input_quantiser", None)
    return found if isinstance(found, InputFakeQuantiser) else None


def build_deployed(
    model: nn.Module, layers: Mapping[str, CompressibleLayer], pairs: Sequence[tuple[str, str]], *, exact: bool
) -> nn.Module:
    """A copy of the model for inference: weights on their levels, normalisations that follow layers folded in.

    Args:
        model: trained model.
        layers: its compressible layers.
        pairs: (layer, normalisation that follows it) by name.
        exact: True: layers compute as the chip does (ExactLayer). False: ordinary float layers, for export.
    """
    result = copy.deepcopy(model).eval()
    norms = dict(pairs)
    for name in layers:
        module = result.get_submodule(name)
        norm = result.get_submodule(norms[name]) if name in norms else None
        folded = fold_batchnorm(module, norm)
        quantiser = get_input_quantiser(module)
        replacement = _copy_plain(module, folded).to(folded.weight.device)
        if exact and quantiser is not None and quantiser.frozen:
            if folded.codes is None:
                replacement = nn.Sequential(quantiser, replacement)
            else:
                replacement = ExactLayer(replacement, quantiser, folded.codes, folded.scale, folded.bias)
        _replace_module(result, name, replacement)
        if name in norms:
            _replace_module(result, norms[name], nn.Identity())
    return result


def _replace_module(model: nn.Module, name: str, replacement: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, replacement)


def _copy_plain(module: nn.Module, folded: FoldedLayer) -> nn.Module:
    """An ordinary layer with the folded weight and bias, without parametrisation and hooks."""
    if isinstance(module, nn.Linear):
        plain: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d = nn.Linear(
            module.in_features, module.out_features, bias=folded.bias is not None
        )
    else:
        kind = next(k for k in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, k))
        plain = kind(
            in_channels=module.in_channels,  # type: ignore[arg-type]
            out_channels=module.out_channels,  # type: ignore[arg-type]
            kernel_size=module.kernel_size,  # type: ignore[arg-type]
            stride=module.stride,  # type: ignore[arg-type]
            padding=module.padding,  # type: ignore[arg-type]
            dilation=module.dilation,  # type: ignore[arg-type]
            groups=module.groups,  # type: ignore[arg-type]
            bias=folded.bias is not None,
            padding_mode=module.padding_mode,  # type: ignore[arg-type]
        )
    with torch.no_grad():
        plain.weight.copy_(folded.weight)
        if folded.bias is not None and plain.bias is not None:
            plain.bias.copy_(folded.bias)
    return plain.eval()


def to_onnx(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    pairs: Sequence[tuple[str, str]],
    example: Inputs,
) -> ir.Model:
    """The trained model as QDQ ONNX with a free batch axis; nodes carry the layers' names.

    Raises:
        CompileError: inputs of other than 8 bits, which QDQ of opset 17 cannot express.
        ModelError: a model that torch.onnx cannot export, a layer that the exporter does not keep.
    """
    norms = dict(pairs)
    quantised = {}
    for name in layers:
        module = model.get_submodule(name)
        quantised[name] = _describe_layer(name, module, model.get_submodule(norms[name]) if name in norms else None)
    plain = build_deployed(model, layers, pairs, exact=False)
    # The exporter merges equal weights into one initializer. The weights are replaced by codes afterwards, so any
    # values do, as long as no two layers have the same.
    with torch.no_grad():
        for number, (name, layer) in enumerate(quantised.items()):
            if layer.codes is not None:
                plain.get_parameter(f"{name}.weight").fill_(number + 1)
    return insert_quantisers(_export_float(plain, example), quantised)


def _describe_layer(name: str, module: nn.Module, norm: nn.Module | None) -> QuantisedLayer:
    """Codes, scales and input quantiser of one layer, as the file holds them."""
    quantiser, folded, mapped = get_input_quantiser(module), fold_batchnorm(module, norm), get_mapped_weight(module)
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
    """Refuse inputs that QDQ of opset 17 cannot express.

    Raises:
        CompileError: other than 8 bits.
    """
    if bits != 8:
        raise CompileError(
            f"inputs of {bits} bits cannot be written as QDQ; train with 8 (--set precision.inputs=8), "
            "or leave inputs float (quantisation.inputs = false)",
            name,
        )


def name_file_inputs(model: nn.Module, example: Inputs) -> dict[str, torch.Tensor]:
    """The inputs of the exported file by name, in order: names of a dict, ``x``, or ``x0``, ``x1``, ..."""
    if isinstance(example, dict):
        given = find_given_parameters(model, example) or list(inspect.signature(model.forward).parameters)
        return {name: example[name] for name in given}
    return {"x": example[0]} if len(example) == 1 else {f"x{index}": value for index, value in enumerate(example)}


def _export_float(model: nn.Module, example: Inputs) -> ir.Model:
    inputs = list(name_file_inputs(model, example))
    given = find_given_parameters(model, example)
    if given is None and isinstance(example, dict):
        given = inputs
    values = tuple(order_inputs(model, move_inputs(take_samples(example, 1), "cpu")))
    if given is not None:  # the exporter passes all parameters by position, and those that are left out as None
        forward, names = model.forward, given
        model.forward = lambda *args: forward(**dict(zip(names, args, strict=True)))
    options: dict[str, Any] = {"dynamo": False}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the TorchScript exporter, which keeps readable names, is deprecated
        torch._C._jit_set_onnx_log_output_stream("stderr")  # on failure it prints the graph
        file = Path(folder) / "float.onnx"
        try:
            torch.onnx.export(
                model.cpu(),
                values,
                str(file),
                opset_version=OPSET,
                input_names=inputs,
                output_names=["y"],
                dynamic_axes={name: {0: "n"} for name in [*inputs, "y"]},
                do_constant_folding=False,
                **options,
            )
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"torch.onnx cannot export the model: {first}; express that part in operators it supports"
            ) from error
        return load_model_file(file)


def write_onnx(model: ir.Model, path: Path) -> None:
    """Write the model atomically: to a temporary file, then renamed."""
    temporary = path.with_name(f".{path.name}.new")
    written = save_model(model, temporary.parent, temporary.name)
    assert written == [temporary.name], "a compressed model fits into one file"
    temporary.replace(path)
