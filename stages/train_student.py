"""Stage: pseudo-labels of many scenes to one student network, new or one to be trained further.

Every epoch ends in a checkpoint; a run that was killed goes on from it and, on the CPU, ends
with the same bits as one that was not. Memory does not grow with the number of scenes beyond
a fixed budget of kept scenes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.artifacts.store import canonical_json
from data.artifacts.student import STATE, read_state, write_log, write_model, write_state
from data.batches import Sample
from data.errors import ArtifactError, UserError
from data.training_scene import TrainingScene
from models.student import Student
from stages.configs import StudentConfig
from stages.objectives import as_tensor, pooling, scene_losses
from stages.repeatable import repeatable
from stages.sample_loader import SampleLoader
from stages.self_training import Mender
from stages.student_start import read_start

Progress = Callable[[int, int], None]
_WARM_UP = 0.1
_MAX_GRADIENT = 10.0


def _no_progress(done: int, total: int) -> None:
    del done, total


def run(
    scenes: Sequence[TrainingScene],
    cfg: StudentConfig,
    work_dir: Path,
    device: str = "cpu",
    progress: Progress = _no_progress,
    start: Path | None = None,
) -> None:
    """Train, or go on training, and write ``model.safetensors`` and its company.

    Args:
        scenes: read one at a time, whenever an index is asked for.
        cfg: everything that shapes the result.
        work_dir: holds ``state.pt`` and ``metrics.jsonl`` from the first epoch on.
        device: "cpu" or "cuda[:i]"; float16 where it helps on CUDA.
        progress: called with (steps done, steps in all).
        start: a finished student whose network and weights to start from.

    Raises:
        UserError: no scene, no labelled query, tokens of different lengths, no such device, the
            wrong spconv, a start that does not fit, or a loss that is not finite (the last
            checkpoint stays).
        ArtifactError: the checkpoint is damaged or of another run; the start is damaged.
    """
    with repeatable():
        loader = SampleLoader(scenes, cfg)
        trainer = _Trainer(cfg, loader, device, start)
        log = trainer.resume(work_dir)
        steps = math.ceil(len(loader.usable) / cfg.batch_scenes)
        for epoch in range(len(log), cfg.epochs):
            trainer.mend_labels(epoch)
            began = time.monotonic()
            parts: list[dict[str, float]] = []
            for step, batch in enumerate(loader.epoch(epoch)):
                done = epoch * steps + step
                parts.append(trainer.step(batch, done, cfg.epochs * steps, epoch))
                progress(done + 1, cfg.epochs * steps)
            means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
            seconds = round(time.monotonic() - began, 3)
            log.append({"epoch": epoch + 1, **means, "seconds": seconds})
            write_state(work_dir, trainer.state(), log)
        write_model(work_dir, trainer.model.state_dict(), trainer.description)


class _Trainer:
    """The network, its optimiser and one step."""

    def __init__(
        self, cfg: StudentConfig, loader: SampleLoader, device: str, start: Path | None
    ) -> None:
        self._cfg, self._device = cfg, torch.device(device)
        self._amp = self._device.type == "cuda"
        if self._amp and not torch.cuda.is_available():
            raise UserError(f"Device {device!r} was asked for, but torch finds no CUDA device.")
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
            self.model.to(self._device)
        except ImportError as error:
            raise UserError(str(error)) from error
        self._optimizer = _optimizer(self.model, cfg)
        self._loader = loader
        self._mender_weights: dict[str, Tensor] | None = None
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._amp)

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
        return {
            "mender": self._mender_weights,
            "identity": canonical_json(self.description),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
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
        self._scaler.load_state_dict(state["scaler"])
        if state["mender"] is not None:
            self._mend_with(state["mender"])
        log: list[dict[str, Any]] = state["log"]
        write_log(work_dir, log)
        return log

    def step(self, batch: list[Sample], done: int, total: int, epoch: int) -> dict[str, float]:
        """One step of the optimiser; the learning rate and the parts of the loss before it."""
        lr = self._cfg.lr * _schedule(done, total)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        parts = self._losses(batch)
        loss = parts["loss"]
        self._optimizer.zero_grad(set_to_none=True)
        scaled: Any = self._scaler.scale(loss)
        scaled.backward()
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT)
        # Under float16 an overflowing gradient is met by the scaler, which skips the step.
        if not math.isfinite(loss.item() if self._amp else loss.item() + norm.item()):
            raise UserError(
                f"Training broke down in epoch {epoch + 1}: loss {loss.item()}, gradient "
                f"{norm.item()}. Lower student.lr (now {self._cfg.lr}). The checkpoint of the "
                "epoch before was kept."
            )
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return {"lr": lr, **{name: part.item() for name, part in parts.items()}}

    def _losses(self, batch: list[Sample]) -> dict[str, Tensor]:
        sizes = [len(sample.features) for sample in batch]
        features = self._tensor(np.concatenate([sample.features for sample in batch]))
        numbers = np.repeat(np.arange(len(batch), dtype=np.int32), sizes)[:, None]
        coords = np.concatenate([sample.grid_coords for sample in batch])
        indices = self._tensor(np.concatenate([numbers, coords], 1))
        scenes = [pooling(sample, self._device) for sample in batch]
        with torch.autocast(self._device.type, torch.float16, enabled=self._amp):
            outputs = self.model(features, indices, scenes)
        cfg = self._cfg.loss
        each = [
            scene_losses(self.model, sample, output, cfg)
            for sample, output in zip(batch, outputs, strict=True)
        ]
        parts = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
        weights = cfg.model_dump()
        loss = sum(weights[name] * part for name, part in parts.items())
        return {"loss": loss, **parts}

    def _tensor(self, array: Any) -> Tensor:
        return as_tensor(array, self._device)


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
