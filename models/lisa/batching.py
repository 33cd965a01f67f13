"""How much is computed together: as much as a GPU has memory for; on a CPU what caches hold."""

from __future__ import annotations

import torch

from models.lisa.network import LisaConfig

_MOST_VIEWS = {"cpu": 4}
_MOST_VIEWS_ON_GPU = 8
_MOST_ROWS = {"cpu": 128}
_MOST_ROWS_ON_GPU = 256
_MOST_MASKS = {"cpu": 8}
_MOST_MASKS_ON_GPU = 64
_CACHE_BYTES = 2 * 2**30
_VIEW_BYTES = 2**28
_SHARE = 0.25
"""Of a GPU's free memory, for the views read together and for keys and values each."""


def views_at_once(config: LisaConfig, device: torch.device) -> int:
    """Views to encode and to ask together.

    As many as there is room for, up to 4 on a CPU and 8 on a GPU: SAM's whole attention is the
    largest thing that a view needs, heads x cells x cells numbers, of which about three exist at
    once. On a CPU they are to take 256 MB, several views of a small LISA and one of a large.
    """
    free = _free_bytes(device)
    room = _VIEW_BYTES if free is None else int(_SHARE * free)
    cells = config.sam_grid**2
    per_view = 3 * 4 * int(config.sam_vision.num_attention_heads) * cells * cells
    most = _MOST_VIEWS.get(device.type, _MOST_VIEWS_ON_GPU)
    return int(min(max(room // per_view, 1), most))


def rows_at_once(row_bytes: int, device: torch.device) -> int:
    """Questions to read together whose keys and values take ``row_bytes`` each; at least one."""
    free = _free_bytes(device)
    room = _CACHE_BYTES if free is None else max(int(_SHARE * free), _CACHE_BYTES)
    most = _MOST_ROWS.get(device.type, _MOST_ROWS_ON_GPU)
    return min(max(room // max(row_bytes, 1), 1), most)


def mask_parts(count: int, device: torch.device) -> int:
    """Parts of like size in which to decode ``count`` masks.

    SAM repeats the image's embedding for each mask: on a CPU few stay in its cache, and are
    decoded a tenth sooner than all together.
    """
    return -(-count // _MOST_MASKS.get(device.type, _MOST_MASKS_ON_GPU))


def _free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, None for what is no CUDA device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
