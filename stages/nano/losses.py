"""What LISA-nano is trained for, in both stages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.lisa.trainee import NanoTrainee, Sequences
from stages.nano.batches import NO_COLOR, Batch
from stages.nano.packing import UNKNOWN

_DECISION_WEIGHT = 5.0


Terms = dict[str, Tensor]


def tower_losses(trainee: NanoTrainee, batch: Batch, clip: Tensor, sam: Tensor) -> Terms:
    """Dense labels and colours from both towers."""
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
    """Masks (B, K, 4g, 4g) and predicted IoUs (B, K); what is not shown has an empty mask."""
    height, width = batch.masks.shape[2:]
    given = logits[..., :height, :width].float().flatten(2)
    wanted = batch.masks.flatten(2)
    inside = given.sigmoid()
    dice = 1 - (2 * (inside * wanted).sum(-1) + 1) / (inside.sum(-1) + wanted.sum(-1) + 1)
    with torch.no_grad():
        drawn, true = given > 0, wanted > 0.5
        both, either = (drawn & true).sum(-1), (drawn | true).sum(-1)
        reached = both / either.clamp(min=1)
    shown = batch.shown.float()
    return {
        "bce": functional.binary_cross_entropy_with_logits(given, wanted),
        "dice": (dice * shown).sum() / shown.sum().clamp(min=1),
        "iou": functional.mse_loss(iou.float(), reached),
        "reached": (reached * shown).sum() / shown.sum().clamp(min=1),
    }


def stage_one(trainee: NanoTrainee, batch: Batch) -> Terms:
    """Towers and mask decoder without language: labels and colours prompt the masks."""
    network = trainee.network
    clip, sam = network.clip_features(batch.clip), network.sam_embedding(batch.sam)
    prompts = trainee.prompts(batch.labels, batch.colors)
    masks, iou = network.decode_masks(sam, prompts)
    return tower_losses(trainee, batch, clip, sam) | mask_losses(masks, iou, batch)


def stage_two(
    trainee: NanoTrainee, batch: Batch, prefix: Tensor, borrowed: Tensor, align: float
) -> Terms:
    """All parts together; ``borrowed`` (B, K) bool prompts the masks by label, not by language.

    The state that decides between [SEG] and no mask is also the one that prompts the mask, so
    every question trains the mask decoder, those for absent things towards nothing.
    """
    network = trainee.network
    clip, sam = network.clip_features(batch.clip), network.sam_embedding(batch.sam)
    sequences = Sequences(prefix, batch.ids, batch.segments, batch.positions)
    states, summary = trainee.read(clip, sequences)
    rows = torch.arange(len(states), device=states.device)[:, None]
    seg = network.seg_head(states[rows, batch.ask_at])
    prompts = trainee.prompts(batch.labels, batch.colors)
    told = batch.prompted[..., None]
    mixed = torch.where(borrowed[..., None] & told, prompts, seg.to(prompts.dtype))
    masks, iou = network.decode_masks(sam, mixed)
    terms = tower_losses(trainee, batch, clip, sam) | mask_losses(masks, iou, batch)
    terms["align"] = align * (told * (seg.float() - prompts.detach().float()) ** 2).mean()
    terms |= _language(trainee, batch, states)
    terms["in_view"] = _in_view(trainee.in_view(summary).float(), batch.in_view)
    terms["tokens"] = _apart(trainee, batch, seg.float())
    return terms


def _language(trainee: NanoTrainee, batch: Batch, states: Tensor) -> Terms:
    """Cross entropy of answers, the deciding token weighted up, and how often it is right."""
    told = batch.targets != UNKNOWN
    logits = trainee.network.language_model.lm_head(states[told]).float()
    wanted, deciding = batch.targets[told], batch.decisions[told] > 0
    each = functional.cross_entropy(logits, wanted, reduction="none")
    weight = 1 + (_DECISION_WEIGHT - 1) * deciding
    right = (logits.argmax(dim=-1) == wanted).float()
    return {
        "language": (each * weight).sum() / weight.sum(),
        "decided": right[deciding].mean(),
        "named": right[~deciding].mean(),
    }


def _in_view(logits: Tensor, wanted: Tensor) -> Tensor:
    """Which labels are in view, read from the state at the image's end."""
    told = wanted != UNKNOWN
    return functional.binary_cross_entropy_with_logits(logits[told], wanted[told].float())


def _apart(trainee: NanoTrainee, batch: Batch, seg: Tensor) -> Tensor:
    """[SEG] embeddings of unlike labels, and of unlike colours of one label, told apart."""
    labels, colors = trainee.token_logits(seg.flatten(0, 1))
    seen = batch.seen_colors.flatten()
    asked = torch.where(seen == NO_COLOR, batch.colors.flatten(), seen)
    clear = asked != NO_COLOR
    loss = functional.cross_entropy(labels, batch.labels.flatten())
    if clear.any():
        return loss + functional.cross_entropy(colors[clear], asked[clear] - 1)
    # A gradient all the same: processes share those of the same parameters, or wait for ever.
    return loss + 0 * colors.sum()
