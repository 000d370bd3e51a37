"""Accuracy of ResNet-20 on all 10,000 CIFAR-10 test images: float, quantised and mapped.

With ADCs that are large enough and with ADCs that are not, their range full or calibrated on 512 training images.

    python benchmarks/accuracy.py [--limit 10000] [--out accuracy]

Needs ../shared. Takes an hour or more on two cores; a run that was stopped continues with the next model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from common import RESULTS, SHARED, write

import mcompiler
from mcompiler.runtime import Session, open_file, open_model

MODEL = SHARED / "models" / "cifar10_resnet20.torch-ts.op13.dynb.onnx"
BATCH = 16
CONFIGURATIONS = {
    "generic_128": ("generic_128", ()),
    "isaac": ("isaac", ()),
    **{
        f"{target}, {bits}-bit ADC, {kind} range": (
            target,
            (f"converters.adc.bits={bits}", f"converters.adc.range={kind}"),
        )
        for target, widths in (("generic_128", (8, 7, 6)), ("isaac", (7,)))
        for bits in widths
        for kind in ("full", "calibrated")
    },
}


def normalised(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """NCHW float32 with ImageNet's mean and deviation, as the model wants them."""
    scaled = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return scaled.astype(np.float32).transpose(0, 3, 1, 2)


def top1(session: Session, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    found = [
        session.run({session.inputs[0].name: x[start : start + BATCH]})[session.outputs[0]].argmax(axis=1)
        for start in range(0, len(x), BATCH)
    ]
    return float((np.concatenate(found) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--out", default="accuracy")
    args = parser.parse_args()
    sys.path.insert(0, str(SHARED / "data"))
    from load import cifar10

    (train, _), (test, labels) = cifar10(parts=("train_a", "test"))
    calibration = {"input": normalised(train[:512])}
    x, y = normalised(test[: args.limit]), labels[: args.limit]
    path = RESULTS / f"{args.out}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    result: dict[str, Any] = {"images": len(x), "calibration_images": 512, "rows": {}}
    if known.get("images") == len(x):
        result["rows"] = known["rows"]
    for name, (target, overrides) in CONFIGURATIONS.items():
        if name in result["rows"]:
            continue
        started = time.perf_counter()
        build = mcompiler.compile(MODEL, target, calibration=calibration, overrides=overrides)
        if "float" not in result["rows"]:
            result["rows"]["float"] = {"top1": top1(open_file(MODEL), x, y)}
            result["rows"]["quantised, 8 bit"] = {"top1": top1(open_model(build.reference), x, y)}
        analog = [layer.analog for layer in build.layer_data]
        result["rows"][name] = {
            "top1": top1(open_model(build.mapped), x, y),
            "layers_lossless": sum(layer.lossless for layer in analog),
            "layers": len(analog),
            "largest_share_clipped": max(layer.clipped or 0.0 for layer in analog),
            "seconds": round(time.perf_counter() - started, 1),
        }
        write(args.out, result)
        print(name, result["rows"][name], flush=True)


if __name__ == "__main__":
    main()
