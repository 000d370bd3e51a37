"""Input codes of lossy layers: padded, channels last, and cut into phases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mcompiler.onnx_export.emitter import Emitter, sizes_of
from mcompiler.onnx_export.lossy import LossyLayer


def padded_codes(emitter: Emitter, codes: ir.Value, layer: LossyLayer) -> ir.Value:
    """Convolutions: padded with z_x, where that is not 0 (Conv pads with 0). Products: [vectors, K]."""
    conv = layer.conv
    if conv is None:
        return emitter("Reshape", codes, emitter.ints(-1, layer.op.matrix.codes.shape[1]))
    if not layer.pads_itself:
        return codes
    rank = len(conv.kernel)
    pads = emitter.ints(*(0, 0, *conv.pads[:rank]), *(0, 0, *conv.pads[rank:]))
    kind = np.uint8 if layer.op.site.input.bits <= 8 else np.int32
    return emitter("Pad", codes, pads, emitter.constant(layer.op.site.input.zero_point, kind))


def channels_last(emitter: Emitter, codes: ir.Value, layer: LossyLayer) -> ir.Value:
    """Codes of a convolution with the channels on the last axis; those of a product as they are."""
    if layer.conv is None:
        return codes
    rank = len(layer.conv.kernel)
    return emitter("Transpose", codes, perm=[0, *range(2, rank + 2), 1])


def phase_planes(emitter: Emitter, values: ir.Value, layer: LossyLayer, width: int) -> ir.Value:
    """Input codes of each phase, stacked on the first axis: uint8 [phases * n, ..., width]."""
    step, phases = layer.step, layer.phases
    if phases == 1:  # the code is its own only digit; a phase has at most 8 bits
        return values if layer.op.site.input.bits <= 8 else emitter.cast(values, ir.DataType.UINT8)
    rank = 2 if layer.conv is None else len(layer.conv.kernel) + 2
    each = (phases, *(1 for _ in range(rank)))
    stacked = emitter("Unsqueeze", values, emitter.ints(0))
    places = step * np.arange(phases)
    if layer.op.site.input.bits > 8:
        shifted = emitter("Div", stacked, emitter.constant((1 << places).reshape(each), np.int32))
        plane = emitter.cast(emitter("Mod", shifted, emitter.constant(1 << step, np.int32)), ir.DataType.UINT8)
    else:
        # Bits above the digit are shifted out of the byte, then those below it: two steps on bytes, where a modulus
        # would need a wider type. Of one bit a comparison with 128 does the second.
        left = np.maximum(0, 8 - step - places)
        moved = emitter("BitShift", stacked, emitter.constant(left.reshape(each), np.uint8), direction="LEFT")
        if step == 1:
            plane = emitter.cast(emitter("GreaterOrEqual", moved, emitter.constant(128, np.uint8)), ir.DataType.UINT8)
        else:
            right = (left + places).reshape(each)
            plane = emitter("BitShift", moved, emitter.constant(right, np.uint8), direction="RIGHT")
    if layer.conv is not None and layer.source_sizes is not None:
        return emitter("Reshape", plane, emitter.ints(-1, *layer.source_sizes, width))
    return emitter("Reshape", plane, emitter("Concat", emitter.ints(-1), sizes_of(emitter, values, 1, rank), axis=0))
