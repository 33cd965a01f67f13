"""Stage: train LISA-nano, with its losses, its optimisers and its three training stages.

Small matrix products gain little from threads, so two processes each compute half of a step's
pictures and average their gradients, nearly twice as fast as one process. The number of processes
is fixed, because it determines the pictures of a step and so the result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional

from data.errors import DataError
from data.rooms.teacher_questions import KINDS
from data.types import Progress, silent
from models.lisa.checkpoint import load_lisa
from models.lisa.network import LisaNetwork
from models.lisa.tokenizer import LisaTokenizer
from models.lisa.trainee import NanoTrainee, Sequences, nano_network
from stages.nano.batches import (
    COLOR_IDS,
    JOINT,
    LABEL_IDS,
    NO_COLOR,
    UNKNOWN,
    AnswerFormat,
    Asking,
    Batch,
    NanoData,
)
from stages.nano.configs import NanoTrainConfig
from stages.nano.muon import Muon


def new_optimizers(trainee: NanoTrainee, cfg: NanoTrainConfig) -> list[torch.optim.Optimizer]:
    """Make Muon for the inner matrices and AdamW for all other parameters."""
    parameters = [p for p in trainee.parameters() if p.requires_grad]
    inner = {id(p) for p in inner_matrices(trainee)}
    matrices = [p for p in parameters if id(p) in inner]
    others = [p for p in parameters if id(p) not in inner]
    decayed = [p for p in others if p.ndim > 1]
    plain = [p for p in others if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": cfg.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    muon = Muon(matrices, cfg.matrix_lr, cfg.weight_decay)
    return [muon, torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, 0.98))]


def inner_matrices(trainee: NanoTrainee) -> list[Tensor]:
    """Return the weights of the linear layers between the first and last layers."""
    network = trainee.network
    parts = (
        network.vision_tower.encoder,
        network.projector,
        network.language_model.model.layers,
        network.seg_head,
        network.image_encoder.layers,
        network.mask_decoder,
    )
    modules = (module for part in parts for module in part.modules())
    return [m.weight for m in modules if isinstance(m, torch.nn.Linear)]


def vision_of(trainee: NanoTrainee) -> list[nn.Module]:
    """Return both towers, the mask decoder and the training heads on the towers."""
    network = trainee.network
    readers = [trainee.dense_sam, trainee.dense_clip, trainee.paint_sam, trainee.paint_clip]
    return [network.vision_tower, network.image_encoder, network.mask_decoder, *readers]


_DECISION_WEIGHT = 5.0


Terms = dict[str, Tensor]


def tower_losses(trainee: NanoTrainee, batch: Batch, clip: Tensor, sam: Tensor) -> Terms:
    """Return the losses of dense labels and colours of both towers."""
    height, width = batch.cells.shape[1:]
    cells = trainee.sam_labels(sam)[..., :height, :width].float()
    patches = trainee.dense_clip(clip).float()
    side = int(batch.patches.shape[1] ** 0.5)
    paint = functional.adaptive_avg_pool2d(batch.paint, side).flatten(2).transpose(1, 2)
    of_sam = trainee.sam_paint(sam)[..., :height, :width].float()
    return {
        "dense": functional.cross_entropy(cells, batch.cells)
        - (batch.patches * functional.log_softmax(patches, dim=-1)).sum(dim=-1).mean(),
        "paint": functional.l1_loss(of_sam, batch.paint)
        + functional.l1_loss(trainee.paint_clip(clip).float(), paint),
    }


def mask_losses(logits: Tensor, iou: Tensor, batch: Batch) -> Terms:
    """Return the losses of mask logits (B, K, 4g, 4g) and predicted IoUs (B, K).

    A target out of view has an empty mask. "reached" is the mean IoU, not a loss.
    """
    height, width = batch.masks.shape[2:]
    cropped = logits[..., :height, :width].float().flatten(2)
    targets = batch.masks.flatten(2)
    probs = cropped.sigmoid()
    dice = 1 - (2 * (probs * targets).sum(-1) + 1) / (probs.sum(-1) + targets.sum(-1) + 1)
    with torch.no_grad():
        drawn, true = cropped > 0, targets > 0.5
        intersection, union = (drawn & true).sum(-1), (drawn | true).sum(-1)
        true_iou = intersection / union.clamp(min=1)
    shown = batch.shown.float()
    return {
        "bce": functional.binary_cross_entropy_with_logits(cropped, targets),
        "dice": (dice * shown).sum() / shown.sum().clamp(min=1),
        "iou": functional.mse_loss(iou.float(), true_iou),
        "reached": (true_iou * shown).sum() / shown.sum().clamp(min=1),
    }


def stage_one(trainee: NanoTrainee, batch: Batch) -> Terms:
    """Return the losses of the first stage: embeddings of labels and colours prompt the masks."""
    network = trainee.network
    clip, sam = network.clip_features(batch.clip), network.sam_embedding(batch.sam)
    prompts = trainee.prompts(batch.labels.clamp(min=0), batch.colors)
    masks, iou = network.decode_masks(sam, prompts)
    return tower_losses(trainee, batch, clip, sam) | mask_losses(masks, iou, batch)


def stage_two(
    trainee: NanoTrainee, batch: Batch, prefix: Tensor, borrowed: Tensor, align: float
) -> Terms:
    """Return the losses of all parts together.

    ``borrowed`` (B, K) bool marks questions whose masks are prompted by label instead of by
    language; ``align`` is the weight of the alignment of both. The state that decides between
    [SEG] and no mask also prompts the mask, so every question trains the mask decoder; absent
    objects train it towards an empty mask.
    """
    network = trainee.network
    clip, sam = network.clip_features(batch.clip), network.sam_embedding(batch.sam)
    sequences = Sequences(prefix, batch.ids, batch.segments, batch.positions)
    states, summary = trainee.read(network.projector(clip), sequences)
    rows = torch.arange(len(states), device=states.device)[:, None]
    seg = network.seg_head(states[rows, batch.ask_at])
    prompts = trainee.prompts(batch.labels.clamp(min=0), batch.colors)
    prompted = batch.prompted[..., None]
    mixed = torch.where(borrowed[..., None] & prompted, prompts, seg.to(prompts.dtype))
    masks, iou = network.decode_masks(sam, mixed)
    terms = tower_losses(trainee, batch, clip, sam) | mask_losses(masks, iou, batch)
    terms["align"] = align * (prompted * (seg.float() - prompts.detach().float()) ** 2).mean()
    terms |= _language(trainee, batch, states)
    terms["in_view"] = _in_view(trainee.in_view(summary).float(), batch.in_view)
    terms["tokens"] = _apart(trainee, batch, seg.float())
    return terms


def stage_three(trainee: NanoTrainee, batch: Batch, prefix: Tensor) -> Terms:
    """Return the losses of the language model alone.

    The first half of the pictures is read as it is. In the place of the others stands the mean of
    all, as when texts are encoded without an image: it tells nothing about what is in view, so
    only the names of these answers are learnt, and no masks.
    """
    network, sharp = trainee.network, len(batch.ids) - len(batch.ids) // 2
    with torch.no_grad():
        clip, sam = network.clip_features(batch.clip), network.sam_embedding(batch.sam[:sharp])
    image = network.projector(clip)
    mean = image.mean(dim=0, keepdim=True).expand(len(image) - sharp, -1, -1)
    sequences = Sequences(prefix, batch.ids, batch.segments, batch.positions)
    states, summary = trainee.read(torch.cat([image[:sharp], mean]), sequences)
    rows = torch.arange(len(states), device=states.device)[:, None]
    seg = network.seg_head(states[rows, batch.ask_at])
    masks, iou = network.decode_masks(sam, seg[:sharp])
    terms = mask_losses(
        masks, iou, replace(batch, masks=batch.masks[:sharp], shown=batch.shown[:sharp])
    )
    targets = torch.cat([batch.targets[:sharp], _names_alone(batch)[sharp:]])
    terms |= _language(trainee, replace(batch, targets=targets), states)
    terms["in_view"] = _in_view(trainee.in_view(summary[:sharp]).float(), batch.in_view[:sharp])
    terms["tokens"] = _apart(trainee, batch, seg.float())
    return terms


def _names_alone(batch: Batch) -> Tensor:
    """Return the targets (B, S) of answers up to the deciding token, which is left out."""
    ends = torch.full((len(batch.ids), batch.ask_at.shape[1] + 1), -1)
    # Each question owns one segment, and the padding the one before the first.
    owners = batch.segments.gather(1, batch.ask_at)
    ends.scatter_(1, owners + 1, batch.ask_at)
    positions = torch.arange(batch.ids.shape[1])
    decided = positions >= ends.gather(1, batch.segments + 1)
    return batch.targets.masked_fill(decided, UNKNOWN)


def _language(trainee: NanoTrainee, batch: Batch, states: Tensor) -> Terms:
    """Return the cross entropy of answers, with a larger weight of the deciding token.

    "decided" and "named" are the accuracies of deciding and other tokens, not losses.
    """
    in_answer = batch.targets != UNKNOWN
    logits = trainee.network.language_model.lm_head(states[in_answer]).float()
    targets, deciding = batch.targets[in_answer], batch.decisions[in_answer] > 0
    by_token = functional.cross_entropy(logits, targets, reduction="none")
    weight = 1 + (_DECISION_WEIGHT - 1) * deciding
    right = (logits.argmax(dim=-1) == targets).float()
    return {
        "language": (by_token * weight).sum() / weight.sum(),
        "decided": right[deciding].mean(),
        "named": right[~deciding].mean(),
    }


def _in_view(logits: Tensor, in_view: Tensor) -> Tensor:
    """Return the cross entropy of the labels in view, both (B, labels), without ``UNKNOWN``."""
    known = in_view != UNKNOWN
    return functional.binary_cross_entropy_with_logits(logits[known], in_view[known].float())


def _apart(trainee: NanoTrainee, batch: Batch, seg: Tensor) -> Tensor:
    """Return the cross entropy of labels and colours, classified from [SEG] embeddings."""
    labels, colors = trainee.token_logits(seg.flatten(0, 1))
    seen = batch.seen_colors.flatten()
    targets = torch.where(seen == NO_COLOR, batch.colors.flatten(), seen)
    clear = targets != NO_COLOR
    asked = batch.labels.flatten()
    known = asked != UNKNOWN
    # A zero gradient is needed: all processes must reduce gradients of the same parameters.
    loss = 0 * labels.sum() + 0 * colors.sum()
    if known.any():
        loss = loss + functional.cross_entropy(labels[known], asked[known])
    if clear.any():
        loss = loss + functional.cross_entropy(colors[clear], targets[clear] - 1)
    return loss


PROCESSES = 2
_CHECKPOINT = "checkpoint.pt"
_LOG = "log.jsonl"
_CHECKPOINT_STEPS = 100
_LOG_STEPS = 20
_WARMUP = 100
_LEVEL_UNTIL = 0.4
_TOWERS = Asking({"name": 0.6, "color": 0.4})
_WORDINGS = Asking({**KINDS, "both": 0.1, "stranger": 0.5}, structure=1.0, loosely=True)
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
    """Train all stages, from the last checkpoint in ``folder``, and write ``trainee.pt`` there."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rendezvous = folder / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(rank, folder, shards, tokenizer, cfg), daemon=True)
        for rank in range(1, PROCESSES)
    ]
    for process in workers:
        process.start()
    try:
        _work(0, folder, shards, tokenizer, cfg, progress)
        for process in workers:
            process.join()
    finally:
        for process in workers:
            process.kill()
        rendezvous.unlink(missing_ok=True)


def _work(
    rank: int,
    folder: Path,
    shards: Sequence[Path],
    tokenizer_folder: Path,
    cfg: NanoTrainConfig,
    progress: Progress = silent,
) -> None:
    """Train in one of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=PROCESSES
    )
    try:
        tokenizer = LisaTokenizer.from_folder(tokenizer_folder)
        answers = AnswerFormat(tokenizer)
        data = NanoData(shards, answers)
        torch.manual_seed(cfg.seed)
        trainee = NanoTrainee(_network(tokenizer, cfg.start), len(LABEL_IDS), len(COLOR_IDS))
        Trainer(rank, folder, data, torch.tensor(answers.prefix), trainee, cfg).run(progress)
    finally:
        distributed.destroy_process_group()


def _network(tokenizer: LisaTokenizer, start: str) -> LisaNetwork:
    """Make a network with random weights, or load the one in the folder ``start``."""
    network = nano_network(tokenizer.seg_id + 1)
    if start:
        try:
            network.load_state_dict(load_lisa(start).network.state_dict())
        except RuntimeError as error:
            expected = "the sizes of LISA-nano (models/lisa/trainee.py)"
            remedy = "Choose another train.start."
            raise DataError(Path(start), expected, str(error).splitlines()[-1], remedy) from error
    return network


def computes_in_bfloat16() -> bool:
    """Whether the processor computes in bfloat16; where it does not, float32 is far faster."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Trainer:
    """Runs the steps of all stages, numbered consecutively.

    The first stage trains the towers without language, the second all parts together, the third
    the language model alone with frozen vision and freer wordings.
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
        self.vision_steps = cfg.tower_steps + cfg.joint_steps
        self.total = self.vision_steps + cfg.wording_steps
        self.step, self.in_bfloat16 = 0, computes_in_bfloat16()
        self._averages: dict[str, float] = {}

    def run(self, progress: Progress) -> None:
        """Run the remaining steps, then write ``trainee.pt``."""
        self._load()
        while self.step < self.total:
            if self.step == self.vision_steps:
                self._freeze_vision()
            terms = self._one_step()
            self.step += 1
            if self.rank == 0:
                self._log(terms)
                progress(self.step, self.total)
                if self.step % _CHECKPOINT_STEPS == 0:
                    self._save(_CHECKPOINT, self._state())
        if self.rank == 0:
            self._save("trainee.pt", self.trainee.state_dict())
            (self.folder / _CHECKPOINT).unlink(missing_ok=True)

    def _freeze_vision(self) -> None:
        """Freeze the vision parts and start new optimisers for the other parameters."""
        for part in vision_of(self.trainee):
            part.requires_grad_(False)
        self.optimizers = new_optimizers(self.trainee, self.cfg)

    def _rate(self) -> float:
        """Return the share of the peak learning rate: linear warm-up, constant, linear decay to 0.

        The last stage repeats this schedule at half the rate.
        """
        last = self.step >= self.vision_steps
        start, end = (self.vision_steps, self.total) if last else (0, self.vision_steps)
        up = (self.step - start + 1) / min(_WARMUP, (end - start) / 10)
        down = (end - self.step) / ((end - start) * (1 - _LEVEL_UNTIL))
        return min(1.0, up, down) * (_GENTLY if last else 1.0)

    def _one_step(self) -> Terms:
        cfg, share = self.cfg, self._rate()
        joint = self.step >= cfg.tower_steps
        rng = np.random.default_rng([cfg.seed, self.rank, self.step])
        wordings = self.step >= self.vision_steps
        if wordings:
            # Half as many pictures leave time for twice as many sentences about each.
            batch = self.data.batch(rng, -(-cfg.batch // 2), 2 * cfg.queries, _WORDINGS)
        else:
            batch = self.data.batch(rng, cfg.batch, cfg.queries, JOINT if joint else _TOWERS)
        for optimizer, rate in zip(self.optimizers, (cfg.matrix_lr, cfg.lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * rate
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bfloat16):
            if wordings:
                terms = stage_three(self.trainee, batch, self.prefix)
            elif joint:
                done = (self.step - cfg.tower_steps) / cfg.joint_steps
                chance = 0.0 if cfg.start else max(0.0, 1 - done / _BORROWED_UNTIL)
                borrowed = torch.from_numpy(rng.random((cfg.batch, cfg.queries)) < chance)
                align = 0.0 if cfg.start else max(0.0, 1 - done / _ALIGNED_UNTIL)
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
        """Average the gradients over all processes; unused parameters keep no gradient."""
        used = [p for p in self.trainee.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in used if p.grad is not None])
        distributed.all_reduce(flat)
        flat /= PROCESSES
        start = 0
        for p in used:
            p.grad = flat[start : start + p.numel()].view_as(p)
            start += p.numel()

    def _log(self, terms: Terms) -> None:
        for name, term in terms.items():
            value = float(term.detach())
            self._averages[name] = 0.95 * self._averages.get(name, value) + 0.05 * value
        if self.step % _LOG_STEPS == 0:
            line = {name: round(value, 4) for name, value in self._averages.items()}
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
            if self.step > self.vision_steps:
                self._freeze_vision()
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        log = self.folder / _LOG
        if self.rank == 0 and log.exists():
            # Lines after the checkpoint are removed, because their steps are repeated.
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            log.write_text("".join(x for x in lines if json.loads(x)["step"] <= self.step))
        # All processes must have read the checkpoint before the first writes the next one.
        distributed.barrier()
