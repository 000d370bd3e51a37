"""The whole recipe in one call: search a budget, alternate, project, remove what became unused, retrain, quantise.

    result = admm.compress(model, batches, "yuan2019", spec, test=test_batches, out="run")
    result.export("model.onnx")

Every epoch ends in a checkpoint; called again with the same arguments, a run that was killed goes on where it was, to
the same weights (on the CPU, bit for bit).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcompiler.admm.alternation import Residuals
from mcompiler.admm.checkpoint import TrainingLog, digest, load_checkpoint, save_checkpoint, seed_epoch
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.display import Advance, progress_bar
from mcompiler.admm.distributed import join_ranks, pick_device
from mcompiler.admm.loop import (
    SLOW_BFLOAT16,
    Batches,
    ComputeSettings,
    EpochResult,
    Loss,
    accuracy,
    count_batches,
    get_batches,
    make_optimiser,
    train_epoch,
)
from mcompiler.admm.lowering import find_uncompressed
from mcompiler.admm.plan import plan_structures
from mcompiler.admm.precheck import check_before_training
from mcompiler.admm.pruned import PrunedModel, prune, rebuild
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges, observe
from mcompiler.admm.result import Compressed
from mcompiler.admm.spec import Optimiser, Spec, Structure, as_spec
from mcompiler.errors import BuildError, CompileError
from mcompiler.target import Target, load_target, resolved_toml

STAGES = ("admm", "float", "quantised", "done")
Say = Callable[[str], None]


def compress(
    model: nn.Module,
    train: Batches,
    target: str | Path | Target,
    spec: Spec | str | Path | None = None,
    *,
    example: Any = None,
    test: Batches | None = None,
    loss: Loss | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = True,
    progress: bool = True,
    say: Say | None = None,
) -> Compressed:
    """Prune and quantise a trained model for a target.

    Args:
        model: trained dense model; left untouched.
        train: (x, y) batches that can be walked again each epoch, or a function of the epoch that gives them. Data that
            draw from Python's, numpy's or PyTorch's global generators can be had again: each epoch seeds them.
        target: the chip.
        spec: hyper-parameters, or a file of them; default: no structure, quantisation only.
        example: an input of the model (a tensor, or a tuple of several); default: from the first batch.
        test: batches on which top-1 accuracy is measured.
        loss: of (output, y); default: cross entropy.
        out: folder for checkpoints, log and results; None: nothing is written.
        device: default: a GPU where there is one.
        resume: go on from a checkpoint in ``out``.
        progress: show a bar on a terminal.
        say: told what happens, a line at a time.

    Returns:
        The compressed model with what became of it.

    Raises:
        UserError: what is wrong with model, data, target or specification, and what to do.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    spec = as_spec(spec)
    chosen = pick_device(device)
    compute = ComputeSettings(chosen, spec.precision == "bfloat16", spec.channels_last, join_ranks(chosen))
    folder = None if out is None else Path(out)
    with progress_bar(progress and compute.ranks.first) as advance:
        run = _Compression(
            model, train, chip, spec, compute, folder, loss or _cross_entropy, test, advance, say or _silent
        )
        return run.run(example, resume)


def _silent(message: str) -> None:
    """Say nothing."""


def _cross_entropy(output: Any, y: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(output, y)


@dataclass
class _Compression:
    """One compression under way (mutable: this is its state)."""

    source: nn.Module
    train: Batches
    target: Target
    spec: Spec
    compute: ComputeSettings
    out: Path | None
    loss: Loss
    test: Batches | None
    advance: Advance
    say: Say
    length: int | None = None

    def run(self, example: Any, resume: bool) -> Compressed:
        """All stages, from wherever the checkpoint says."""
        if self.compute.emulates_bfloat16:
            self._tell(SLOW_BFLOAT16)
        self.model = self.compute.placed(copy.deepcopy(self.source))
        self.compute.ranks.agree(self.model)
        self.fingerprint = f"{self.spec.fingerprint()}\n{resolved_toml(self.target)}\n{digest(self.model.state_dict())}"
        self.example = self._example(example)
        state = self._begin(resume)
        if not state:
            check_before_training(self.model, self.example, self.target, self.spec)
        self.figures: dict[str, Any] = state.get("figures", {})
        stage, epoch = state.get("stage", "admm"), int(state.get("epoch", 0))
        if "dense" not in self.figures:
            self.figures["dense"] = self._accuracy(self.model)
            self._tell(f"dense: {_percent(self.figures['dense'])}")
        self.structures = self._structures(state)
        self.compressor = Compressor(self.model, self.target, self.spec, self.structures)
        self.structures = self.compressor.structures
        self.left = find_uncompressed(self.model, self.compressor.layers)
        if self.left:
            self._tell("not compressed: " + ", ".join(f"'{name}' ({kind})" for name, kind in self.left.items()))
        self.dense_tiles = self.compressor.dense_tiles()
        self.dense_weights = {name: layer.weight.numel() for name, layer in self.compressor.layers.items()}
        if stage == "admm":
            self._alternate(epoch, state)
            stage, epoch, state = "float", 0, {}
            self.pruned = self._prune()
        else:
            self._rebuild()
        self.model, self.compressor = self.pruned.model, self.pruned.compressor
        if stage == "float":
            self._retrain("float", epoch, self.spec.retrain.float_epochs, state)
            stage, epoch, state = "quantised", 0, {}
        self._quantise(fresh=not state)
        self._retrain("quantised", epoch, self.spec.retrain.epochs - self.spec.retrain.float_epochs, state)
        return self._finish()

    # --- beginning and checkpoints -----------------------------------------------------------------------------------

    def _example(self, example: Any) -> tuple[Any, ...]:
        if isinstance(self.train, Iterator):
            raise CompileError(
                "the training data can be walked only once; give a list, a DataLoader or a function of the epoch"
            )
        if example is None:
            seed_epoch(self.spec.seed, 0, 0)
            first = next(iter(get_batches(self.train, 0)), None)
            if not isinstance(first, tuple | list) or len(first) != 2:
                raise CompileError(
                    "the training data give no pair (inputs, targets); give a list or DataLoader of them"
                )
            example = first[0]
        parts = tuple(example) if isinstance(example, tuple | list) else (example,)
        return tuple(self.compute.moved(part[:2]) for part in parts)

    def _begin(self, resume: bool) -> dict[str, Any]:
        """The checkpoint to go on from (or nothing), and the log cut back to it."""
        if self.out is None:
            self.log = TrainingLog(None)
            return {}
        state: dict[str, Any] = {}
        file = self.out / "checkpoint.pt"
        if file.exists() and resume:
            state = load_checkpoint(file)
            if state["fingerprint"] != self.fingerprint:
                raise BuildError(
                    f"{file}: of another specification, target or model; give another --out, or start anew with "
                    "--restart"
                )
            self._tell(f"going on from {file}: {state['stage']}, epoch {state['epoch']}")
        if self.compute.ranks.first:
            self.out.mkdir(parents=True, exist_ok=True)
        self.compute.ranks.wait()
        self.log = TrainingLog(self.out / "log.jsonl" if self.compute.ranks.first else None, int(state.get("log", 0)))
        return state

    def _save(self, stage: str, epoch: int, optimiser: torch.optim.Optimizer) -> None:
        if self.out is None or not self.compute.ranks.first:
            return
        save_checkpoint(
            self.out / "checkpoint.pt",
            {
                "fingerprint": self.fingerprint,
                "stage": stage,
                "epoch": epoch,
                "figures": self.figures,
                "structures": {name: dataclasses.asdict(entry) for name, entry in self.structures.items()},
                "model": self.model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "compressor": self.compressor.state_dict(),
                "log": self.log.length,
            },
        )

    # --- stages ------------------------------------------------------------------------------------------------------

    def _structures(self, state: Mapping[str, Any]) -> dict[str, Structure]:
        if "structures" in state:
            return {name: Structure(**entry) for name, entry in state["structures"].items()}
        if self.spec.budget is None:
            return dict(self.spec.layers)
        seed_epoch(self.spec.seed, 0, 1)
        found, line = plan_structures(
            self.model, get_batches(self.train, 0), self.loss, self.target, self.spec, self.compute, self.example
        )
        self.log.write({"stage": "budget", **line})
        self._tell(f"budget: {line['spent']:g} of {line['limit']:g} {line['currency']}, dense {line['dense']:g}")
        return {**found, **self.spec.layers}

    def _alternate(self, first: int, state: Mapping[str, Any]) -> None:
        """The ADMM stages."""
        admm = self.spec.admm
        epochs = admm.epochs * len(admm.rho)
        optimiser = make_optimiser(self.model, admm.optimiser)
        if state:
            self.model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            self.compressor.load_state_dict(state["compressor"])
        for epoch in range(first, epochs):
            done = 0
            residuals: dict[str, Residuals] = {}

            def often(share: float) -> None:
                nonlocal done, residuals
                while done < admm.updates_per_epoch - 1 and share >= (done + 1) / admm.updates_per_epoch:
                    residuals = self.compressor.update()
                    done += 1

            result = self._epoch("admm", 1, epoch, epochs, optimiser, admm.optimiser, self.compressor.penalty, often)
            often(1.0)
            residuals = self.compressor.update()
            self.compute.ranks.agree(self.model)
            line = {name: dataclasses.asdict(entry) for name, entry in residuals.items()}
            worst = max((max(r.primal_structure, r.primal_levels) for r in residuals.values()), default=0.0)
            self._close("admm", epoch, result, {"residuals": line, "worst_primal": worst})
            self._save("admm", epoch + 1, optimiser)

    def _prune(self) -> PrunedModel:
        """Hard projection, purification, removal of unused paths: the small model."""
        kept = self._pruned_file() if self.compute.ranks.first else None  # all processes have the same weights
        pruned = prune(self.model, self.compressor, self.example, self.spec, kept)
        self._tell_pruned(pruned)
        return pruned

    def _rebuild(self) -> None:
        file = self._pruned_file()
        if file is None or not file.exists():
            raise BuildError(f"{file}: missing beside the checkpoint; start anew with --restart")
        self.pruned = rebuild(self.model, self.compressor, self.example, self.spec, file)

    def _pruned_file(self) -> Path | None:
        return None if self.out is None else self.out / "pruned.pt"

    def _tell_pruned(self, pruned: PrunedModel) -> None:
        tiles = pruned.compressor.tiles()
        self.compute.placed(pruned.model)
        self.figures["projected"] = self._accuracy(pruned.model)
        line = {"stage": "projection", "accuracy": self.figures["projected"], "tiles": tiles, "removed": pruned.removed}
        self.log.write({**line, "stays": pruned.stays})
        self._tell(
            f"projected: {_percent(self.figures['projected'])}, {sum(tiles.values())} of "
            f"{sum(self.dense_tiles.values())} array positions"
        )
        if pruned.stays:
            counts = ", ".join(f"{sum(reasons.values())} of '{name}'" for name, reasons in pruned.stays.items())
            self._tell(f"filters without weights that have to stay (log and report say why): {counts}")

    def _quantise(self, *, fresh: bool) -> None:
        """Levels of weights and codes of inputs from here on."""
        self.compressor.project(self.pruned.masks, levels=True)
        self.compute.placed(self.model)
        if not self.spec.quantisation.inputs:
            return
        quantisers = attach_quantisers(self.model, self.compressor.layers, self.pruned.shared, self.target)
        self.compute.placed(self.model)
        if fresh:
            seed_epoch(self.spec.seed, 0, 2)
            observe(self.model, quantisers, get_batches(self.train, 0), self.spec.quantisation.batches, self.compute)
            freeze_ranges(quantisers, self.spec.quantisation.input_range)
            self.compute.ranks.agree(self.model)
        else:
            for quantiser in quantisers.values():
                quantiser.frozen = True

    def _retrain(self, stage: str, first: int, epochs: int, state: Mapping[str, Any]) -> None:
        """Masked retraining, with float or quantised weights."""
        options = self.spec.retrain.optimiser
        optimiser = make_optimiser(self.model, options)
        if state:
            self.model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
        self.compute.ranks.agree(self.model)
        before = 0 if stage == "float" else self.spec.retrain.float_epochs
        for epoch in range(first, epochs):
            if stage == "quantised":
                self.compressor.update()
            number = 2 if stage == "float" else 3
            result = self._epoch(stage, number, epoch, self.spec.retrain.epochs, optimiser, options, None, None, before)
            self.compute.ranks.agree(self.model)
            self._close(stage, epoch, result, {})
            self._save(stage, epoch + 1, optimiser)
        if epochs == 0 or first < epochs or not state:
            self._save(stage, epochs, optimiser)

    def _epoch(
        self,
        stage: str,
        number: int,
        epoch: int,
        epochs: int,
        optimiser: torch.optim.Optimizer,
        options: Optimiser,
        penalty: Callable[[], torch.Tensor] | None,
        often: Callable[[float], None] | None,
        before: int = 0,
    ) -> EpochResult:
        seed_epoch(self.spec.seed, number, epoch)
        batches = get_batches(self.train, epoch + before)
        total = count_batches(batches)
        if total is None:
            total = self._counted()
            seed_epoch(self.spec.seed, number, epoch)
            batches = get_batches(self.train, epoch + before)
        label = f"{stage} {epoch + before + 1}/{epochs}"
        return train_epoch(
            self.model, batches, self.loss, optimiser, options, lambda share: (epoch + before + share) / epochs,
            self.compute, penalty=penalty, often=often, tick=lambda done: self.advance(label, done, total),
            length=total, where=f"stage {stage}, epoch {epoch}",
        )  # fmt: skip

    def _counted(self) -> int:
        """Batches of the first epoch, walked through once: rates and penalties follow the share of an epoch."""
        if self.length is None:
            seed_epoch(self.spec.seed, 0, 0)
            self.length = sum(1 for _ in get_batches(self.train, 0))
            self._tell(f"the training data do not say how many batches they give; counted {self.length}")
        return self.length

    def _close(self, stage: str, epoch: int, result: EpochResult, more: Mapping[str, Any]) -> None:
        figure = self._accuracy(self.model)
        line = {"stage": stage, "epoch": epoch, **dataclasses.asdict(result), "accuracy": figure, **more}
        self.log.write(line)
        self._tell(f"{stage} {epoch}: loss {result.loss:.4f}, {_percent(figure)}, {result.seconds:.0f} s")

    def _finish(self) -> Compressed:
        self.compute.ranks.wait()
        result = Compressed(
            self.model.eval(), self.target, self.compressor.layers, self.pruned.pairs, self.example, self.structures,
            self.figures, self.dense_tiles, self.dense_weights, self.compressor.tiles(), self.pruned.stays, self.left,
        )  # fmt: skip
        if self.test is not None:
            twin = result.deployed()
            batches = get_batches(self.test, 0)
            self.figures["quantised"] = accuracy(twin, batches, self.compute, exact=True)
            self._tell(f"quantised: {_percent(self.figures['quantised'])}")
        if self.out is not None and self.compute.ranks.first:
            result.write(self.out)
        self.compute.ranks.wait()
        return result

    def _accuracy(self, model: nn.Module) -> float | None:
        return None if self.test is None else accuracy(model, get_batches(self.test, 0), self.compute)

    def _tell(self, message: str) -> None:
        if self.compute.ranks.first:
            self.say(message)


def _percent(value: float | None) -> str:
    return "no test data" if value is None else f"{100 * value:.2f}%"
