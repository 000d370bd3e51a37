"""The whole recipe in one call: budget search, ADMM, projection, removal of unused paths, retraining, quantisation.

    result = admm.compress(model, batches, "yuan2019", spec, test=test_batches, out="run")
    result.export("model.onnx")

Every epoch ends with a checkpoint. A run that was killed and is called again with the same arguments resumes from the
last checkpoint and reaches the same weights (on the CPU, bit for bit).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcompiler.admm.agreement import check_exported
from mcompiler.admm.alternation import Residuals, describe_large_residuals
from mcompiler.admm.checkpoint import TrainingLog, hash_state, load_checkpoint, save_checkpoint
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.display import Advance, progress_bar
from mcompiler.admm.distributed import join_ranks, pick_device
from mcompiler.admm.epochs import BUDGET_EPOCH, COUNT_EPOCH, RANGE_EPOCH, EpochNumber, EpochRunner, format_percent
from mcompiler.admm.inputs import unwrap_model
from mcompiler.admm.loop import (
    SLOW_BFLOAT16,
    Batches,
    ComputeSettings,
    Loss,
    TrainingStage,
    choose_example,
    get_batches,
    make_optimiser,
)
from mcompiler.admm.lowering import find_layers, find_uncompressed
from mcompiler.admm.plan import plan_structures
from mcompiler.admm.precheck import check_before_training
from mcompiler.admm.pruned import PrunedModel, prune, restore_pruned
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges, observe_ranges
from mcompiler.admm.result import Compressed
from mcompiler.admm.spec import Optimiser, Spec, Structure, as_spec
from mcompiler.errors import BuildError
from mcompiler.target import Target, load_target, resolved_toml

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
        model: trained dense model; not changed.
        train: (x, y) batches that can be iterated again each epoch, or a function from the epoch to its batches. Data
            that draw from Python's, numpy's or PyTorch's global generators are reproducible: each epoch seeds them.
        target: the chip.
        spec: hyper-parameters, or a file of them; default: no structure, quantisation only.
        example: an input of the model (a tensor, or a tuple of several); default: from the first batch.
        test: batches on which top-1 accuracy is measured.
        loss: of (output, y); default: cross entropy.
        out: folder for checkpoints, log and results; None: nothing is written.
        device: default: a GPU where there is one.
        resume: continue from a checkpoint in ``out``.
        progress: show a progress bar on a terminal.
        say: called with messages, a line each.

    Returns:
        The compressed model with its figures.

    Raises:
        UserError: what is wrong with model, data, target or specification, and what to do.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    spec = as_spec(spec)
    chosen = pick_device(device)
    compute = ComputeSettings(chosen, spec.precision == "bfloat16", spec.channels_last, join_ranks(chosen))
    with progress_bar(progress and compute.ranks.is_first) as advance:
        run = _Compression(
            source=model,
            train=train,
            target=chip,
            spec=spec,
            compute=compute,
            out=None if out is None else Path(out),
            loss=loss or _cross_entropy,
            test=test,
            advance=advance,
            say=say or (lambda message: None),
        )
        return run.run(example, resume)


def _cross_entropy(output: Any, y: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(output, y)


@dataclass
class _Compression:
    """One compression while it runs (mutable: this is its state)."""

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

    def run(self, example: Any, resume: bool) -> Compressed:
        """All stages, from the one that the checkpoint names on."""
        source = unwrap_model(self.source)
        find_layers(source, self.spec.skip, self.spec.layers)  # refuses layers that cannot be copied, by name
        self.model = self.compute.move_model(copy.deepcopy(source))
        self.compute.ranks.broadcast_model(self.model)
        self.fingerprint = (
            f"{self.spec.fingerprint()}\n{resolved_toml(self.target)}\n{hash_state(self.model.state_dict())}"
        )
        state = self._load_checkpoint(resume)
        self.log = self._open_log(state)
        self.epochs = EpochRunner(
            train=self.train,
            test=self.test,
            compute=self.compute,
            seed=self.spec.seed,
            log=self.log,
            advance=self.advance,
            say=self.say,
        )
        self._announce(state)
        self.epochs.seed_preparation(COUNT_EPOCH)
        self.example = self.compute.move_batch(choose_example(self.train, example))
        if not state:
            check_before_training(self.model, self.example, self.target, self.spec)
        self._prepare(state)
        stage, epoch = state.get("stage", "admm"), int(state.get("epoch", 0))
        if stage == "admm":
            self._run_admm(epoch, state)
            stage, epoch, state = "float", 0, {}
            self.pruned = self._prune()
        else:
            self.pruned = self._restore_pruned()
        self.model, self.compressor = self.pruned.model, self.pruned.compressor
        if stage == "float":
            self._retrain("float", epoch, self.spec.retrain.float_epochs, state)
            stage, epoch, state = "quantised", 0, {}
        self._quantise(fresh=not state)
        self._retrain("quantised", epoch, self.spec.retrain.epochs - self.spec.retrain.float_epochs, state)
        return self._finish()

    # --- preparation and checkpoints ---------------------------------------------------------------------------------

    def _announce(self, state: Mapping[str, Any]) -> None:
        if self.compute.emulates_bfloat16:
            self.epochs.tell(SLOW_BFLOAT16)
        if state:
            self.epochs.tell(f"resuming from {self._checkpoint_file()}: {state['stage']}, epoch {state['epoch']}")

    def _checkpoint_file(self) -> Path | None:
        return None if self.out is None else self.out / "checkpoint.pt"

    def _load_checkpoint(self, resume: bool) -> dict[str, Any]:
        """The checkpoint to resume from; empty where there is none."""
        file = self._checkpoint_file()
        if file is None or not file.exists() or not resume:
            return {}
        state = load_checkpoint(file)
        if state["fingerprint"] != self.fingerprint:
            raise BuildError(
                f"{file}: of another specification, target or model; give another --out, or start again with --restart"
            )
        return state

    def _open_log(self, state: Mapping[str, Any]) -> TrainingLog:
        """The log, cut to its length at the checkpoint."""
        if self.out is None:
            return TrainingLog(None)
        if self.compute.ranks.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
        self.compute.ranks.wait()
        return TrainingLog(self.out / "log.jsonl" if self.compute.ranks.is_first else None, int(state.get("log", 0)))

    def _prepare(self, state: Mapping[str, Any]) -> None:
        """Accuracy and size of the dense model, structures, and the compressor."""
        self.figures: dict[str, Any] = state.get("figures", {})
        if "dense" not in self.figures:
            self.figures["dense"] = self.epochs.measure(self.model)
            self.epochs.tell(f"dense: {format_percent(self.figures['dense'])}")
        self.compressor = Compressor(self.model, self.target, self.spec, self._choose_structures(state))
        self.structures = self.compressor.structures
        self.uncompressed = find_uncompressed(self.model, self.compressor.layers)
        if self.uncompressed:
            names = ", ".join(f"'{name}' ({kind})" for name, kind in self.uncompressed.items())
            self.epochs.tell(f"not compressed: {names}")
        self.dense_tiles = self.compressor.dense_tiles()
        self.dense_weights = {name: layer.weight.numel() for name, layer in self.compressor.layers.items()}

    def _choose_structures(self, state: Mapping[str, Any]) -> dict[str, Structure]:
        """Structures from the checkpoint, the specification or a budget search."""
        if "structures" in state:
            return {name: Structure(**entry) for name, entry in state["structures"].items()}
        if self.spec.budget is None:
            return dict(self.spec.layers)
        self.epochs.seed_preparation(BUDGET_EPOCH)
        found, line = plan_structures(
            self.model,
            self.target,
            self.spec,
            self.example,
            batches=get_batches(self.train, 0),
            loss=self.loss,
            compute=self.compute,
        )
        self.log.write({"stage": "budget", **line})
        self.epochs.tell(f"budget: {line['spent']:g} of {line['limit']:g} {line['currency']}, dense {line['dense']:g}")
        return {**found, **self.spec.layers}

    def _save(self, stage: str, epoch: int, optimiser: torch.optim.Optimizer) -> None:
        file = self._checkpoint_file()
        if file is None or not self.compute.ranks.is_first:
            return
        content = {
            "fingerprint": self.fingerprint,
            "stage": stage,
            "epoch": epoch,
            "figures": self.figures,
            "structures": {name: dataclasses.asdict(entry) for name, entry in self.structures.items()},
            "model": self.model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "compressor": self.compressor.state_dict(),
            "log": self.log.length,
        }
        save_checkpoint(file, content)

    # --- stages ------------------------------------------------------------------------------------------------------

    def _make_stage(self, options: Optimiser, state: Mapping[str, Any]) -> TrainingStage:
        """A stage without penalty, its model and optimiser as the checkpoint has them."""
        optimiser = make_optimiser(self.model, options)
        if state:
            self.model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
        return TrainingStage(self.model, self.loss, optimiser, options, self.compute)

    def _run_admm(self, first: int, state: Mapping[str, Any]) -> None:
        """The ADMM stages."""
        admm, compressor = self.spec.admm, self.compressor
        stage = self._make_stage(admm.optimiser, state)
        stage = dataclasses.replace(stage, penalty=compressor.penalty)
        if state:
            compressor.load_state_dict(state["compressor"])
        epochs = admm.epochs * len(admm.rho)
        for epoch in range(first, epochs):
            updates = 0

            def update_when_due(fraction: float) -> None:
                # The last of the epoch's updates comes after its last step, below; the others when their time has come.
                nonlocal updates
                while updates < admm.updates_per_epoch - 1 and fraction >= (updates + 1) / admm.updates_per_epoch:
                    compressor.update()
                    updates += 1

            number = EpochNumber("admm", epoch, epochs)
            result = self.epochs.run(stage, number, update_when_due)
            update_when_due(1.0)
            residuals = compressor.update()
            self.compute.ranks.broadcast_model(self.model)
            self.epochs.report(number, result, self.model, _make_residual_entries(residuals))
            done = admm.stop > 0 and all(max(entry.primal, entry.dual) <= admm.stop for entry in residuals.values())
            self._save("admm", epochs if done else epoch + 1, stage.optimiser)
            if done:
                self.epochs.tell(f"ADMM ends after epoch {epoch}: all residuals are at most {admm.stop:g}")
                break
        if warning := describe_large_residuals(compressor.residuals):
            self.epochs.tell(warning)

    def _prune(self) -> PrunedModel:
        """Hard projection, purification, removal of unused paths: the small model."""
        file = self._pruned_file() if self.compute.ranks.is_first else None  # all processes have the same weights
        pruned = prune(self.model, self.compressor, self.example, self.spec, file, settle=self._estimate_statistics)
        self.compute.move_model(pruned.model)
        self._estimate_statistics(pruned.model)
        self._report_pruned(pruned)
        return pruned

    def _estimate_statistics(self, model: nn.Module) -> None:
        self.epochs.estimate_statistics(model, self.spec.retrain.statistics)

    def _restore_pruned(self) -> PrunedModel:
        file = self._pruned_file()
        if file is None or not file.exists():
            raise BuildError(f"{file}: missing, and the checkpoint needs it; start again with --restart")
        return restore_pruned(self.model, self.compressor, self.example, self.spec, file)

    def _pruned_file(self) -> Path | None:
        return None if self.out is None else self.out / "pruned.pt"

    def _report_pruned(self, pruned: PrunedModel) -> None:
        tiles = pruned.compressor.tiles()
        accuracy = self.figures["projected"] = self.epochs.measure(pruned.model)
        line = {"stage": "projection", "accuracy": accuracy, "tiles": tiles, "removed": pruned.removed}
        self.log.write({**line, "stays": pruned.pinned_filters})
        self.epochs.tell(
            f"projected: {format_percent(accuracy)}, {sum(tiles.values())} of {sum(self.dense_tiles.values())} array "
            "positions"
        )
        if pruned.pinned_filters:
            counts = ", ".join(
                f"{sum(reasons.values())} of '{name}'" for name, reasons in pruned.pinned_filters.items()
            )
            self.epochs.tell(f"filters without weights that have to stay (log and report say why): {counts}")

    def _quantise(self, *, fresh: bool) -> None:
        """Levels of weights and codes of inputs from now on; ``fresh``: input ranges are still to be determined."""
        self.compressor.project(self.pruned.masks, levels=True)
        self.compute.move_model(self.model)
        if fresh:
            self._estimate_statistics(self.model)
        if not self.spec.quantisation.inputs:
            return
        quantisers = attach_quantisers(self.model, self.compressor.layers, self.pruned.shared_inputs, self.target)
        self.compute.move_model(self.model)
        if fresh:
            self.epochs.seed_preparation(RANGE_EPOCH)
            batches = get_batches(self.train, 0)
            observe_ranges(self.model, quantisers, batches, self.spec.quantisation.batches, self.compute)
            freeze_ranges(quantisers, self.spec.quantisation.input_range)
            self.compute.ranks.broadcast_model(self.model)
        else:
            for quantiser in quantisers.values():
                quantiser.frozen = True

    def _retrain(self, name: str, first: int, epochs: int, state: Mapping[str, Any]) -> None:
        """Masked retraining, with float or quantised weights."""
        stage = self._make_stage(self.spec.retrain.optimiser, state)
        self.compute.ranks.broadcast_model(self.model)
        before = 0 if name == "float" else self.spec.retrain.float_epochs
        for epoch in range(first, epochs):
            if name == "quantised":
                self.compressor.update()
            number = EpochNumber(name, epoch, self.spec.retrain.epochs, before)
            result = self.epochs.run(stage, number)
            self.compute.ranks.broadcast_model(self.model)
            self.epochs.report(number, result, self.model, {})
            self._save(name, epoch + 1, stage.optimiser)
        if epochs == 0 or first < epochs or not state:
            self._save(name, epochs, stage.optimiser)

    def _finish(self) -> Compressed:
        self.compute.ranks.wait()
        result = Compressed(
            model=self.model.eval(),
            target=self.target,
            layers=self.compressor.layers,
            batchnorm_pairs=self.pruned.batchnorm_pairs,
            example=self.example,
            structures=self.structures,
            figures=self.figures,
            dense_tiles=self.dense_tiles,
            dense_weights=self.dense_weights,
            tiles=self.compressor.tiles(),
            pinned_filters=self.pruned.pinned_filters,
            uncompressed=self.uncompressed,
        )
        check_exported(result.model, result.layers, result.batchnorm_pairs, self.example, "after the training")
        if self.test is not None:
            self.figures["quantised"] = self.epochs.measure(result.deployed(), exact=True)
            self.epochs.tell(f"quantised: {format_percent(self.figures['quantised'])}")
        if self.out is not None and self.compute.ranks.is_first:
            result.write(self.out)
        self.compute.ranks.wait()
        return result


def _make_residual_entries(residuals: Mapping[str, Residuals]) -> dict[str, Any]:
    """Entries of a log line: the residuals by layer, and the largest primal one."""
    primal = [entry.primal for entry in residuals.values()]
    by_layer = {name: dataclasses.asdict(entry) for name, entry in residuals.items()}
    return {"residuals": by_layer, "worst_primal": max(primal, default=0.0)}
