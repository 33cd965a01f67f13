"""LISA asked as its published code asks: one question on one image at a time, nothing kept.

For every question both towers see the image again; for every token the whole sequence, image
tokens included, is read again without a key-value cache. (The published code even runs the CLIP
tower again for every token; here it runs once per question, which is to the reference's favour.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from data.types import Array
from models.lisa.checkpoint import LoadedLisa
from models.lisa.images import sam_pixels
from models.lisa.tokenizer import IMAGE_TOKEN_ID


@dataclass(frozen=True, eq=False)
class SlowAnswer:
    """Prompt and answer with n [SEG]s.

    ``output_ids`` as LISA returns them; ``step_logits`` (steps, vocabulary); ``seg_hidden``
    (n, hidden), ``seg_embedding`` (n, C), ``low_res_masks`` (n, h, w), ``iou`` (n,).
    """

    output_ids: list[int]
    step_logits: Tensor
    seg_hidden: Tensor
    seg_embedding: Tensor
    low_res_masks: Tensor
    iou: Tensor


@torch.inference_mode()
def answer(
    loaded: LoadedLisa, image: Array, prompt: str, max_new_tokens: int, first_seg: bool = False
) -> SlowAnswer:
    """Greedy answer to one prompt about one image (H, W, 3) uint8, to its end or first [SEG]."""
    network, tokenizer = loaded.network, loaded.tokenizer
    image_tokens = network.image_tokens(loaded.clip_transform(image)[None].to(loaded.device))
    ids = tokenizer.encode(prompt)
    start = len(ids)
    logits = []
    ends = {tokenizer.eos_id, tokenizer.seg_id} if first_seg else {tokenizer.eos_id}
    while True:
        states = whole_states(loaded, ids, image_tokens)
        logits.append(network.language_model.lm_head(states[-1]))
        ids.append(int(logits[-1].argmax()))
        if ids[-1] in ends or len(ids) == start + max_new_tokens:
            break
    # An image is one id and N states; a [SEG] asks with the state before its own place.
    shift = image_tokens.shape[1] - 1
    segs = [place for place in range(start, len(ids)) if ids[place] == tokenizer.seg_id]
    hidden = states[[place + shift - 1 for place in segs]]
    embeddings = network.seg_head(hidden.to(next(network.seg_head.parameters()).dtype))
    pixels = sam_pixels(image, network.config.sam_size)[0][None].to(loaded.device)
    sam_embedding = network.sam_embedding(pixels)
    if segs:
        masks, iou = (part[0] for part in network.decode_masks(sam_embedding, embeddings[None]))
    else:
        side = 4 * network.config.sam_grid
        masks, iou = torch.zeros(0, side, side), torch.zeros(0)
    return SlowAnswer(ids, torch.stack(logits), hidden, embeddings, masks, iou)


def whole_states(loaded: LoadedLisa, ids: Sequence[int], image_tokens: Tensor) -> Tensor:
    """(L + N - 1, hidden) final states of a sequence whose one image id stands for N tokens."""
    model = loaded.network.language_model
    table, place = model.model.embed_tokens, list(ids).index(IMAGE_TOKEN_ID)
    before, after = (
        table(torch.tensor(part, dtype=torch.long, device=loaded.device))
        for part in (ids[:place], ids[place + 1 :])
    )
    sequence = torch.cat([before, image_tokens[0], after])[None]
    return cast(Tensor, model.model(inputs_embeds=sequence, use_cache=False).last_hidden_state[0])
