"""Stage ``train_student``: train one student network on the pseudo-labels of many scenes.

Checkpoints are written after epochs; a killed run resumes from the last checkpoint and, on the
CPU, ends with the same bits as an uninterrupted run. Memory for scenes has a fixed budget.

Several processes share the scenes of each batch (``stages.student.distributed``). Their result
equals that of one process up to rounding: random numbers depend on epoch and scene alone, losses
are averaged over the scenes of the whole batch, and batch normalisation covers all its voxels. So
a checkpoint can be resumed with any number of processes.

Self-training refines labels once: a refined label is the geometric mean of label and prediction,
smoothed within objects (``stages.student.answering``); points that no view sees get the student's
prediction where it is certain.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from data.artifacts.store import canonical_json, read_metadata
from data.artifacts.student import (
    CONFIG,
    STATE,
    read_model,
    read_state,
    write_log,
    write_model,
    write_state,
)
from data.errors import ArtifactError, UserError
from data.parallel import kept_memory
from data.types import Progress, silent
from models.student import Student
from stages.configs import StudentConfig
from stages.fusion.thresholds import choose_thresholds, geometric_mean, rescale_by_threshold
from stages.network_configs import SelfTrainingConfig, check_processes
from stages.student import distributed
from stages.student.answering import answer_superpoints, find_objects, smooth_objects
from stages.student.distributed import repeatable
from stages.student.objectives import Objective, fuse_views
from stages.student.sample_loader import SampleLoader, Share
from stages.student.training_samples import CompactScene, TrainingScene

_SHARE = 0.02
"""Largest share of the training time that is spent on writing checkpoints."""


class CheckpointPace:
    """Spaces checkpoints so that writing them takes a small share of the time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a checkpoint due; ``clock`` returns seconds."""
        self._clock = clock
        self._due_at = clock()

    def due(self) -> bool:
        """Whether to write a checkpoint now; always true before the first."""
        return self._clock() >= self._due_at

    @contextmanager
    def written(self) -> Iterator[None]:
        """Measure the writing of a checkpoint inside the block."""
        began = self._clock()
        yield
        ended = self._clock()
        self._due_at = ended + (ended - began) / _SHARE


_IMAGE_HEAD = "image_head."


@dataclass(frozen=True, eq=False)
class Start:
    """A trained student to start from: ``network`` are its arguments, ``weights`` its weights."""

    network: dict[str, Any]
    weights: dict[str, Tensor]
    fingerprint: str
    folder: Path

    def load_into(self, model: Student) -> None:
        """Load the weights into ``model``, built from ``network``.

        An image head without stored weights keeps its initial weights. Raises ArtifactError for
        weights of another network.
        """
        try:
            keys = model.load_state_dict(self.weights, strict=False)
        except RuntimeError as error:
            raise self._damaged(str(error).split("\n", 1)[-1].strip()) from error
        missing = [name for name in keys.missing_keys if not name.startswith(_IMAGE_HEAD)]
        if missing or keys.unexpected_keys:
            raise self._damaged(f"missing {missing[:3]}, unknown {keys.unexpected_keys[:3]}")

    def _damaged(self, found: str) -> ArtifactError:
        return ArtifactError(
            self.folder / CONFIG, "the config of these weights", found, "Train that student again."
        )


def read_start(student_dir: Path, network_config: Mapping[str, Any], voxel_size: float) -> Start:
    """Read the student in a folder as the start of a training.

    The student's network is kept, whatever the config says about presets and lengths; only the
    head for the teacher's image features is removed or initialised as ``network_config`` says.

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: it takes tokens of another length or voxels of another size.
    """
    weights, described = read_model(student_dir)
    try:
        network = dict(described["network"])
        token_dim, image_dim = network["token_dim"], network.get("image_dim", 0)
        edge = float(described["training"]["voxel_size"])
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            student_dir / CONFIG, "a student's config", fault, "Train that student again."
        ) from error
    if token_dim != network_config["token_dim"]:
        raise UserError(
            f"The student in {student_dir} takes tokens of length {token_dim}, but this teacher's "
            f"have length {network_config['token_dim']}. Start from a student that was trained "
            "with this teacher."
        )
    if edge != voxel_size:
        raise UserError(
            f"The student in {student_dir} takes voxels of {edge} m, but student.voxel_size is "
            f"{voxel_size} m. Set student.voxel_size={edge}."
        )
    if image_dim != network_config["image_dim"]:
        network["image_dim"] = network_config["image_dim"]
        weights = {key: value for key, value in weights.items() if not key.startswith(_IMAGE_HEAD)}
    content = read_metadata(student_dir) or {}
    return Start(network, weights, str(content.get("fingerprint")), student_dir)


_TURNS = 2


class LabelRefiner:
    """Refines the labels of scenes by the predictions of a frozen copy of the student."""

    def __init__(self, model: Student, voxel_size: float, cfg: SelfTrainingConfig) -> None:
        """Take a student in evaluation mode whose weights do not change."""
        self._model, self._voxel_size, self._cfg = model, voxel_size, cfg

    def __call__(self, scene: CompactScene) -> CompactScene:
        """Return the scene with refined labels, confidences and thresholds."""
        cfg, sizes = self._cfg, np.bincount(scene.superpoint_ids)
        with torch.inference_mode():
            tokens = fuse_views(self._model, scene.views).tokens
            cloud = (scene.points, scene.colors, scene.normals)
            probs, features = answer_superpoints(
                self._model, cloud, scene.superpoint_ids, tokens, self._voxel_size, _TURNS
            )
        has_label = scene.confidence > 0
        labels = rescale_by_threshold(scene.soft, scene.thresholds)
        objects = find_objects(features, scene.pairs, cfg.object_cosine)
        combined = np.where(has_label, geometric_mean(probs, labels), probs)
        refined = smooth_objects(combined, objects, sizes, cfg.object_share)
        certainty = np.abs(2 * refined - 1)
        own = np.where(certainty >= cfg.sure, certainty, 0)
        return replace(
            scene,
            soft=refined,
            confidence=np.where(has_label, scene.confidence, own).astype(np.float32),
            # Superpoints have the same weights as in the losses.
            thresholds=choose_thresholds(refined, "expected_dice", cfg.presence, np.sqrt(sizes)),
        )


_WARM_UP = 0.1
_MAX_GRADIENT = 10.0


class Trainer:
    """The network, its optimiser and the training step, identical in all processes."""

    def __init__(
        self, cfg: StudentConfig, loader: SampleLoader, fabric: Fabric, start: Path | None
    ) -> None:
        """Build the network, from the student in ``start`` if given.

        Raises:
            UserError: spconv is not available, or the start does not fit the teacher or the config.
            ArtifactError: the start is damaged.
        """
        self._cfg, self._fabric = cfg, fabric
        network: dict[str, Any] = {
            "preset": cfg.preset,
            "token_dim": loader.token_dim,
            "feature_dim": cfg.feature_dim,
            "learnt_fusion": cfg.fusion == "learnt",
            "image_dim": loader.image_dim,
        }
        parent = None if start is None else read_start(start, network, cfg.voxel_size)
        self.description: dict[str, Any] = {
            "network": network if parent is None else parent.network,
            "training": cfg.model_dump(),
            "scenes": loader.scene_ids,
            **({} if parent is None else {"start": parent.fingerprint}),
        }
        try:
            self.model = Student(**self.description["network"], seed=cfg.seed)
            if parent is not None:
                parent.load_into(self.model)
            self.model.to(fabric.device)
        except ImportError as error:
            raise UserError(str(error)) from error
        self._optimizer = _optimizer(self.model, cfg)
        self._loader = loader
        self._refiner_weights: dict[str, Tensor] | None = None
        self._precision = fabric.strategy.precision
        # Only float16 has a scaler; it skips steps whose gradients overflow.
        self._scaler: torch.amp.GradScaler | None = getattr(self._precision, "scaler", None)
        objective = Objective(self.model, cfg.loss)
        self.prepare = objective.prepare
        self._objective, self._stepper = fabric.setup(objective, self._optimizer)

    def refine_labels(self, epoch: int) -> None:
        """Refine the labels if self-training starts with this epoch; ground truth never changes."""
        cfg, start = self._cfg, self._cfg.self_training.start
        enabled = cfg.supervision == "label_free" and start > 0
        if enabled and epoch == round(start * cfg.epochs):
            self._refine_with({k: v.clone() for k, v in self.model.state_dict().items()})

    def _refine_with(self, weights: dict[str, Tensor]) -> None:
        student = copy.deepcopy(self.model)
        student.load_state_dict(weights)
        self._refiner_weights = weights
        refiner = LabelRefiner(student.eval(), self._cfg.voxel_size, self._cfg.self_training)
        self._loader.refine(refiner)

    def state(self) -> dict[str, Any]:
        """Return the checkpoint, which ``resume`` reads in any number of processes."""
        return {
            "mender": self._refiner_weights,
            "identity": canonical_json(self.description),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._precision.state_dict(),
        }

    def resume(self, work_dir: Path) -> list[dict[str, Any]]:
        """Load the checkpoint in ``work_dir``, if any; returns the log of its finished epochs.

        Raises ArtifactError for a damaged checkpoint, or one of another config or other scenes.
        """
        state = read_state(work_dir)
        if state is None:
            return []
        if state.get("identity") != canonical_json(self.description):
            raise ArtifactError(
                work_dir / STATE,
                "a checkpoint of this config and these scenes",
                "one of another run",
                "Delete the folder to train anew.",
            )
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._precision.load_state_dict(state["scaler"])
        if state["mender"] is not None:
            self._refine_with(state["mender"])
        log: list[dict[str, Any]] = state["log"]
        if self._fabric.is_global_zero:
            write_log(work_dir, log)
        return log

    def step(self, share: Share, done: int, total: int, epoch: int) -> dict[str, float]:
        """Take one optimiser step; returns the learning rate and the losses before the step.

        Raises UserError, in all processes, for a loss or gradient that is not finite.
        """
        lr = self._cfg.lr * _schedule(done, total)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._objective.train()
        parts = self._objective(share)
        self._stepper.zero_grad(set_to_none=True)
        self._fabric.backward(parts["loss"])
        norm = self._clip()
        losses = self._of_all_scenes(parts)
        # With float16 the scaler skips steps whose gradients overflow.
        if not math.isfinite(losses["loss"] if self._scaler else losses["loss"] + norm):
            raise UserError(
                f"Training broke down in epoch {epoch + 1}: loss {losses['loss']}, gradient "
                f"{norm}. Lower student.lr (now {self._cfg.lr}). The last checkpoint was kept."
            )
        self._stepper.step()
        return {"lr": lr, **losses}

    def _clip(self) -> float:
        """Clip the gradients, already averaged over processes; returns their norm before.

        ``fabric.clip_gradients`` is not used: it refuses fused optimisers with float16 and sums
        norms in another order, which would change the bits of every result.
        """
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT).item()

    def _of_all_scenes(self, parts: dict[str, Tensor]) -> dict[str, float]:
        """Return the losses of the whole batch, the means of the processes' shares."""
        own = torch.stack([part.detach() for part in parts.values()])
        whole: Any = self._fabric.all_reduce(own, reduce_op="mean")
        return dict(zip(parts, whole.tolist(), strict=True))


def _optimizer(model: torch.nn.Module, cfg: StudentConfig) -> torch.optim.Optimizer:
    """Make the optimiser; weight decay acts on kernels and matrices only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=cfg.lr, fused=True)


def _schedule(done: int, total: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a half cosine to near 0."""
    warm_up = max(1, round(_WARM_UP * total))
    if done < warm_up:
        return (done + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up + 0.5) / max(1, total - warm_up)))


def run(
    scenes: Sequence[TrainingScene],
    cfg: StudentConfig,
    work_dir: Path,
    device: str = "cpu",
    progress: Progress = silent,
    start: Path | None = None,
    processes: int = 1,
) -> None:
    """Train, or resume training, and write ``model.safetensors``, its config and the log.

    Args:
        scenes: indexed one at a time; pickled for several processes.
        cfg: all settings that determine the result.
        work_dir: holds ``state.pt`` and ``metrics.jsonl`` from the first epoch on.
        device: "cpu" or "cuda[:i]"; CUDA uses mixed float16 precision.
        progress: called with (steps done, number of steps).
        start: folder of a trained student whose network and weights to start from.
        processes: number of processes that share the scenes of a batch, on CUDA one per GPU; 1
            trains in this process.

    Raises:
        ConfigError: fewer than one process, or more processes than scenes in a batch or GPUs.
        UserError: no scene, no labelled query, tokens of different lengths, a device or spconv
            that is not available, or a start that does not fit; also, with the last checkpoint
            kept, a loss that is not finite, or a process that was killed.
        ArtifactError: the checkpoint is damaged or of another run, or the start is damaged.
    """
    check_processes(cfg, processes)
    distributed.check_device(device, processes)
    distributed.run(_train, (scenes, cfg, work_dir, start), device, processes, progress)


def _train(
    fabric: Fabric,
    progress: Progress,
    scenes: Sequence[TrainingScene],
    cfg: StudentConfig,
    work_dir: Path,
    start: Path | None,
) -> None:
    """Train in one process; only the first process writes files."""
    with repeatable(), kept_memory():
        fabric.launch()
        loader = SampleLoader(scenes, cfg, fabric.global_rank, fabric.world_size)
        trainer = Trainer(cfg, loader, fabric, start)
        log = trainer.resume(work_dir)
        steps = math.ceil(len(loader.usable) / cfg.batch_scenes)
        pace = CheckpointPace()
        for epoch in range(len(log), cfg.epochs):
            trainer.refine_labels(epoch)
            began = time.monotonic()
            parts: list[dict[str, float]] = []
            for step, share in enumerate(loader.epoch(epoch, trainer.prepare)):
                done = epoch * steps + step
                parts.append(trainer.step(share, done, cfg.epochs * steps, epoch))
                progress(done + 1, cfg.epochs * steps)
            means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
            seconds = round(time.monotonic() - began, 3)
            log.append({"epoch": epoch + 1, **means, "seconds": seconds})
            if fabric.is_global_zero and (pace.due() or epoch + 1 == cfg.epochs):
                with pace.written():
                    write_state(work_dir, trainer.state(), log)
        if fabric.is_global_zero:
            write_model(work_dir, trainer.model.state_dict(), trainer.description)
