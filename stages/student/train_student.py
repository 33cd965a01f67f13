"""Stage ``train_student``: pseudo-labels of many scenes to one student network.

A mended label is the geometric mean of label and student, drawn together inside what the student
holds for one object (``stages.student.answering``), as in the answer of both together. What no view
saw is labelled by the student alone where it is sure.

Epochs end in checkpoints (``stages.student.train_student``); a run that was killed goes on from the
last and, on the CPU, ends with the same bits as one that was not. Memory does not grow with the
number of scenes beyond a fixed budget of kept scenes.

Several processes share each batch's scenes (``stages.student.distributed``). What they learn is
what one would, but for rounding: random numbers depend on epoch and scene alone, losses are
averaged over the scenes of the whole batch and batch normalisation over its voxels. So a checkpoint
can be taken up by any number of them.
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
from stages.student.answering import agree, answer_superpoints, find_objects
from stages.student.distributed import repeatable
from stages.student.objectives import Objective, fuse_views
from stages.student.sample_loader import SampleLoader, Share
from stages.student.training_samples import CompactScene, TrainingScene

_SHARE = 0.02
"""Of a training's time, for checkpoints; a kill costs the epochs since the last, seconds."""


class CheckpointPace:
    """Knows when the next checkpoint is due: the last one's cost has become a small share."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` tells seconds."""
        self._clock = clock
        self._due_at = clock()

    def due(self) -> bool:
        """Whether to write one now; always before the first."""
        return self._clock() >= self._due_at

    @contextmanager
    def written(self) -> Iterator[None]:
        """Meanwhile one is written."""
        began = self._clock()
        yield
        ended = self._clock()
        self._due_at = ended + (ended - began) / _SHARE


_IMAGE_HEAD = "image_head."


@dataclass(frozen=True, eq=False)
class Start:
    """``network`` builds the student; ``weights`` are those it starts with."""

    network: dict[str, Any]
    weights: dict[str, Tensor]
    fingerprint: str
    folder: Path

    def load_into(self, model: Student) -> None:
        """Give ``model``, built from ``network``, the weights; a head it lacks keeps its own.

        Raises ArtifactError for weights that are not of this network.
        """
        try:
            left = model.load_state_dict(self.weights, strict=False)
        except RuntimeError as error:
            raise self._damaged(str(error).split("\n", 1)[-1].strip()) from error
        missing = [name for name in left.missing_keys if not name.startswith(_IMAGE_HEAD)]
        if missing or left.unexpected_keys:
            raise self._damaged(f"missing {missing[:3]}, unknown {left.unexpected_keys[:3]}")

    def _damaged(self, found: str) -> ArtifactError:
        return ArtifactError(
            self.folder / CONFIG, "the config of these weights", found, "Train that student again."
        )


def read_start(student_dir: Path, wanted: Mapping[str, Any], voxel_size: float) -> Start:
    """The student in a folder, to be trained on tokens and features as ``wanted`` has them.

    Its network stays as it is, whatever the config says of presets and lengths. The head for the
    teacher's image features is the exception: it goes, or is drawn anew, as ``wanted`` says.

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: it takes tokens of another length, or sees voxels of another size.
    """
    weights, described = read_model(student_dir)
    try:
        network = dict(described["network"])
        token_dim, image_dim = network["token_dim"], network.get("image_dim", 0)
        edge = float(described["training"]["voxel_size"])
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            student_dir / CONFIG, "a student's config", found, "Train that student again."
        ) from error
    if token_dim != wanted["token_dim"]:
        raise UserError(
            f"The student in {student_dir} takes tokens of length {token_dim}, but this teacher's "
            f"have length {wanted['token_dim']}. Start from one that this teacher taught."
        )
    if edge != voxel_size:
        raise UserError(
            f"The student in {student_dir} sees voxels of {edge} m, but student.voxel_size is "
            f"{voxel_size} m. Set it to {edge}."
        )
    if image_dim != wanted["image_dim"]:
        network["image_dim"] = wanted["image_dim"]
        weights = {key: value for key, value in weights.items() if not key.startswith(_IMAGE_HEAD)}
    content = read_metadata(student_dir) or {}
    return Start(network, weights, str(content.get("fingerprint")), student_dir)


_TURNS = 2


class Mender:
    """Mends the labels of scenes with the answers of a student as it was at one moment."""

    def __init__(self, model: Student, voxel_size: float, cfg: SelfTrainingConfig) -> None:
        """Take a student in evaluation mode that nothing changes any more."""
        self._model, self._voxel_size, self._cfg = model, voxel_size, cfg

    def __call__(self, scene: CompactScene) -> CompactScene:
        """The scene with new labels and thresholds."""
        cfg, sizes = self._cfg, np.bincount(scene.superpoint_ids)
        with torch.inference_mode():
            tokens = fuse_views(self._model, scene.views).tokens
            cloud = (scene.points, scene.colors, scene.normals)
            probs, features = answer_superpoints(
                self._model, cloud, scene.superpoint_ids, tokens, self._voxel_size, _TURNS
            )
        known = scene.confidence > 0
        labels = rescale_by_threshold(scene.soft, scene.thresholds)
        objects = find_objects(features, scene.pairs, cfg.object_cosine)
        mended = agree(
            np.where(known, geometric_mean(probs, labels), probs), objects, sizes, cfg.object_share
        )
        sure = np.abs(2 * mended - 1)
        own = np.where(sure >= cfg.sure, sure, 0)
        return replace(
            scene,
            soft=mended,
            confidence=np.where(known, scene.confidence, own).astype(np.float32),
            # Superpoints weigh as in the losses.
            thresholds=choose_thresholds(mended, "expected_dice", cfg.presence, np.sqrt(sizes)),
        )


_WARM_UP = 0.1
_MAX_GRADIENT = 10.0


class Trainer:
    """The network, its optimiser and one step; the same in each of several processes."""

    def __init__(
        self, cfg: StudentConfig, loader: SampleLoader, fabric: Fabric, start: Path | None
    ) -> None:
        """Build the network, as ``start`` says where there is one.

        Raises:
            UserError: the wrong spconv, or a start that does not fit.
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
        begin = None if start is None else read_start(start, network, cfg.voxel_size)
        self.description: dict[str, Any] = {
            "network": network if begin is None else begin.network,
            "training": cfg.model_dump(),
            "scenes": loader.scene_ids,
            **({} if begin is None else {"start": begin.fingerprint}),
        }
        try:
            self.model = Student(**self.description["network"], seed=cfg.seed)
            if begin is not None:
                begin.load_into(self.model)
            self.model.to(fabric.device)
        except ImportError as error:
            raise UserError(str(error)) from error
        self._optimizer = _optimizer(self.model, cfg)
        self._loader = loader
        self._mender_weights: dict[str, Tensor] | None = None
        self._precision = fabric.strategy.precision
        # Of float16 alone; its loss may overflow, for which it skips a step.
        self._scaler: torch.amp.GradScaler | None = getattr(self._precision, "scaler", None)
        objective = Objective(self.model, cfg.loss)
        self.prepare = objective.prepare
        self._objective, self._stepper = fabric.setup(objective, self._optimizer)

    def mend_labels(self, epoch: int) -> None:
        """Before the epoch that self-training starts with: labels change from here on.

        Truth is never mended.
        """
        cfg, start = self._cfg, self._cfg.self_training.start
        asked = cfg.supervision == "label_free" and start > 0
        if asked and epoch == round(start * cfg.epochs):
            self._mend_with({k: v.clone() for k, v in self.model.state_dict().items()})

    def _mend_with(self, weights: dict[str, Tensor]) -> None:
        student = copy.deepcopy(self.model)
        student.load_state_dict(weights)
        self._mender_weights = weights
        mender = Mender(student.eval(), self._cfg.voxel_size, self._cfg.self_training)
        self._loader.mend(mender)

    def state(self) -> dict[str, Any]:
        """What ``resume`` takes up again, in however many processes."""
        return {
            "mender": self._mender_weights,
            "identity": canonical_json(self.description),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._precision.state_dict(),
        }

    def resume(self, work_dir: Path) -> list[dict[str, Any]]:
        """Take up the checkpoint in ``work_dir``, if any; the epochs it has behind it."""
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
            self._mend_with(state["mender"])
        log: list[dict[str, Any]] = state["log"]
        if self._fabric.is_global_zero:
            write_log(work_dir, log)
        return log

    def step(self, share: Share, done: int, total: int, epoch: int) -> dict[str, float]:
        """One step of the optimiser; the learning rate and the parts of the loss before it.

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
        told = self._of_all_scenes(parts)
        # Under float16 an overflowing gradient is met by the scaler, which skips the step.
        if not math.isfinite(told["loss"] if self._scaler else told["loss"] + norm):
            raise UserError(
                f"Training broke down in epoch {epoch + 1}: loss {told['loss']}, gradient "
                f"{norm}. Lower student.lr (now {self._cfg.lr}). The last checkpoint was kept."
            )
        self._stepper.step()
        return {"lr": lr, **told}

    def _clip(self) -> float:
        """Clip the gradients, which all processes share by now; their norm before.

        Not ``fabric.clip_gradients``: that refuses fused optimisers under float16, and adds the
        norms up in another order, which would change the bits of every result.
        """
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT).item()

    def _of_all_scenes(self, parts: dict[str, Tensor]) -> dict[str, float]:
        """The parts of the loss of the whole batch, from the processes' shares."""
        own = torch.stack([part.detach() for part in parts.values()])
        whole: Any = self._fabric.all_reduce(own, reduce_op="mean")
        return dict(zip(parts, whole.tolist(), strict=True))


def _optimizer(model: torch.nn.Module, cfg: StudentConfig) -> torch.optim.Optimizer:
    """Weight decay acts on kernels and matrices only, not on norms, biases and scales."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=cfg.lr, fused=True)


def _schedule(done: int, total: int) -> float:
    """Share of the peak learning rate: linear warm-up, then a half cosine to near 0."""
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
    """Train, or go on training, and write ``model.safetensors`` and its company.

    Args:
        scenes: read one at a time, whenever an index is asked for; pickled for more processes.
        cfg: everything that shapes the result.
        work_dir: holds ``state.pt`` and ``metrics.jsonl`` from the first epoch on.
        device: "cpu" or "cuda[:i]"; float16 where it helps on CUDA.
        progress: called with (steps done, steps in all).
        start: a finished student whose network and weights to start from.
        processes: how many share each batch's scenes, on CUDA one a GPU; 1 works in this one.

    Raises:
        ConfigError: fewer than one process, or more than scenes in a batch or GPUs.
        UserError: no scene, no labelled query, tokens of different lengths, no such device, the
            wrong spconv, a start that does not fit, or, where the last checkpoint stays, a loss
            that is not finite or one of several processes killed.
        ArtifactError: the checkpoint is damaged or of another run; the start is damaged.
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
    """What each process does; the first alone writes files."""
    with repeatable(), kept_memory():
        fabric.launch()
        loader = SampleLoader(scenes, cfg, fabric.global_rank, fabric.world_size)
        trainer = Trainer(cfg, loader, fabric, start)
        log = trainer.resume(work_dir)
        steps = math.ceil(len(loader.usable) / cfg.batch_scenes)
        pace = CheckpointPace()
        for epoch in range(len(log), cfg.epochs):
            trainer.mend_labels(epoch)
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
