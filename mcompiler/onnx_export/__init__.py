"""The ONNX models that go out: reference.onnx (integers, no crossbar) and mapped.onnx (the crossbars)."""

from mcompiler.onnx_export.codes import code_names
from mcompiler.onnx_export.files import load_model_file, same_models, save_model
from mcompiler.onnx_export.fluctuations import Physics
from mcompiler.onnx_export.layer import MappedLayer
from mcompiler.onnx_export.mapped import build_mapped
from mcompiler.onnx_export.qdq import QuantisedLayer, insert_quantisers
from mcompiler.onnx_export.reference import build_reference

__all__ = [
    "MappedLayer",
    "Physics",
    "QuantisedLayer",
    "build_mapped",
    "build_reference",
    "code_names",
    "insert_quantisers",
    "load_model_file",
    "same_models",
    "save_model",
]
