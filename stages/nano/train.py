"""Stage: LISA-nano's training, by two processes of one thread each.

Small matrix products gain little from threads; two processes that each take half of a step's
pictures and then share their gradients are nearly twice as fast as one. Their number belongs
to the recipe: it decides which pictures a step sees, so the bits do not depend on the machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing

from data.progress import Progress, silent
from data.rooms.view_queries import KINDS
from models.lisa.tokenizer import LisaTokenizer
from models.lisa.trainee import NanoTrainee, nano_network
from stages.nano.batches import COLOR_IDS, JOINT, LABEL_IDS, Asking, NanoData
from stages.nano.configs import NanoTrainConfig
from stages.nano.losses import Terms, stage_one, stage_two
from stages.nano.optimizers import new_optimizers, vision_of
from stages.nano.packing import Answers

PROCESSES = 2
_CHECKPOINT = "checkpoint.pt"
_LOG = "log.jsonl"
_CHECKPOINT_STEPS = 100
_LOG_STEPS = 20
_WARMUP = 100
_LEVEL_UNTIL = 0.4
_TOWERS = Asking({"name": 0.6, "color": 0.4})
_WORDINGS = Asking({**KINDS, "both": 0.1}, structure=1.0, loosely=True)
_GENTLY = 0.5
_BORROWED_UNTIL = 0.12
_ALIGNED_UNTIL = 0.6
_WEIGHTLESS = ("reached", "decided", "named")


def run(
    folder: Path,
    shards: Sequence[Path],
    tokenizer: Path,
    cfg: NanoTrainConfig,
    progress: Progress = silent,
) -> None:
    """Train all stages into ``folder/trainee.pt``, going on from its last checkpoint."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = folder / "rendezvous"
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    other = [
        context.Process(target=_work, args=(rank, folder, shards, tokenizer, cfg), daemon=True)
        for rank in range(1, PROCESSES)
    ]
    for process in other:
        process.start()
    try:
        _work(0, folder, shards, tokenizer, cfg, progress)
        for process in other:
            process.join()
    finally:
        for process in other:
            process.kill()
        meeting.unlink(missing_ok=True)


def _work(
    rank: int,
    folder: Path,
    shards: Sequence[Path],
    tokenizer_folder: Path,
    cfg: NanoTrainConfig,
    progress: Progress = silent,
) -> None:
    """One process's part."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=PROCESSES
    )
    try:
        tokenizer = LisaTokenizer.from_folder(tokenizer_folder)
        answers = Answers(tokenizer)
        data = NanoData(shards, answers)
        torch.manual_seed(cfg.seed)
        trainee = NanoTrainee(nano_network(tokenizer.seg_id + 1), len(LABEL_IDS), len(COLOR_IDS))
        Trainer(rank, folder, data, torch.tensor(answers.prefix), trainee, cfg).run(progress)
    finally:
        distributed.destroy_process_group()


class Trainer:
    """Steps of all stages, numbered through.

    First the towers, without language; then all parts together; then, with vision as it is, the
    language alone, asked in many more ways.
    """

    def __init__(
        self,
        rank: int,
        folder: Path,
        data: NanoData,
        prefix: Tensor,
        trainee: NanoTrainee,
        cfg: NanoTrainConfig,
    ) -> None:
        self.rank, self.folder, self.data, self.cfg = rank, folder, data, cfg
        self.prefix, self.trainee = prefix, trainee
        self.optimizers = new_optimizers(trainee, cfg)
        self.seeing = cfg.tower_steps + cfg.joint_steps
        self.total = self.seeing + cfg.wording_steps
        self.step = 0
        self._seen: dict[str, float] = {}

    def run(self, progress: Progress) -> None:
        """All steps that are left, then ``trainee.pt``."""
        self._load()
        while self.step < self.total:
            if self.step == self.seeing:
                self._keep_vision()
            terms = self._one_step()
            self.step += 1
            if self.rank == 0:
                self._note(terms)
                progress(self.step, self.total)
                if self.step % _CHECKPOINT_STEPS == 0:
                    self._save(_CHECKPOINT, self._state())
        if self.rank == 0:
            self._save("trainee.pt", self.trainee.state_dict())
            (self.folder / _CHECKPOINT).unlink(missing_ok=True)

    def _keep_vision(self) -> None:
        """From here on vision stays as it is, and what is left to train starts with new rates."""
        for part in vision_of(self.trainee):
            part.requires_grad_(False)
        self.optimizers = new_optimizers(self.trainee, self.cfg)

    def _rate(self) -> float:
        """The learning rate's share: up at first, then level, then down to nothing.

        The last stage does so again, more gently, so as not to undo what was learnt.
        """
        last = self.step >= self.seeing
        start, end = (self.seeing, self.total) if last else (0, self.seeing)
        up = (self.step - start + 1) / min(_WARMUP, (end - start) / 10)
        down = (end - self.step) / ((end - start) * (1 - _LEVEL_UNTIL))
        return min(1.0, up, down) * (_GENTLY if last else 1.0)

    def _one_step(self) -> Terms:
        cfg, share = self.cfg, self._rate()
        joint = self.step >= cfg.tower_steps
        rng = np.random.default_rng([cfg.seed, self.rank, self.step])
        asking = _TOWERS if not joint else JOINT if self.step < self.seeing else _WORDINGS
        batch = self.data.batch(rng, cfg.batch, cfg.queries, asking)
        for optimizer, rate in zip(self.optimizers, (cfg.matrix_lr, cfg.lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * rate
        with torch.autocast("cpu", torch.bfloat16):
            if joint:
                done = (self.step - cfg.tower_steps) / cfg.joint_steps
                chance = max(0.0, 1 - done / _BORROWED_UNTIL)
                borrowed = torch.from_numpy(rng.random((cfg.batch, cfg.queries)) < chance)
                align = max(0.0, 1 - done / _ALIGNED_UNTIL)
                terms = stage_two(self.trainee, batch, self.prefix, borrowed, align)
            else:
                terms = stage_one(self.trainee, batch)
        loss = self.trainee.label_prompts.weight.new_zeros(())
        for name, term in terms.items():
            if name not in _WEIGHTLESS:
                loss = loss + getattr(cfg.weights, name) * term
        self.trainee.zero_grad()
        torch.autograd.backward(loss)
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return terms

    def _share_gradients(self) -> None:
        """The mean of all processes' gradients; parameters out of use stay without one."""
        used = [p for p in self.trainee.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in used if p.grad is not None])
        distributed.all_reduce(flat)
        flat /= PROCESSES
        start = 0
        for p in used:
            p.grad = flat[start : start + p.numel()].view_as(p)
            start += p.numel()

    def _note(self, terms: Terms) -> None:
        for name, term in terms.items():
            value = float(term.detach())
            self._seen[name] = 0.95 * self._seen.get(name, value) + 0.05 * value
        if self.step % _LOG_STEPS == 0:
            line = {name: round(value, 4) for name, value in self._seen.items()}
            with (self.folder / _LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": self.step, **line}) + "\n")

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "trainee": self.trainee.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def _save(self, name: str, content: Any) -> None:
        part = self.folder / f"{name}.part"
        torch.save(content, part)
        part.replace(self.folder / name)

    def _load(self) -> None:
        path = self.folder / _CHECKPOINT
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.trainee.load_state_dict(state["trainee"])
            self.step = int(state["step"])
            if self.step > self.seeing:
                self._keep_vision()
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        log = self.folder / _LOG
        if self.rank == 0 and log.exists():
            # What was noted after the checkpoint will be noted again.
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            log.write_text("".join(x for x in lines if json.loads(x)["step"] <= self.step))
        # All processes have read it before the first may write the next one.
        distributed.barrier()
