"""The student's network, its optimiser, one step of it and its checkpoint."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from data.artifacts.store import canonical_json
from data.artifacts.student import STATE, read_state, write_log
from data.errors import ArtifactError, UserError
from models.student import Student
from stages.configs import StudentConfig
from stages.objectives import Objective
from stages.sample_loader import SampleLoader, Share
from stages.self_training import Mender
from stages.student_start import read_start

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
