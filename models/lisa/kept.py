"""Keys and values of a batch of questions, in memory that is set aside once.

transformers' own cache makes every key and value anew for each token; at LISA-nano's size that
copying took as long as the attention itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class KeptLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # Of transformers.
    """One layer's keys and values (R, heads, L, head size), with room to grow to ``most``.

    Each of the R rows begins with keys and values (1, heads, P, head size), which are copied.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device = keys[0].dtype, keys[0].device
        self._rooms = [_room(starts, most) for starts in (keys, values)]
        self._rows, self._length = len(keys), keys[0].shape[2]
        self.is_initialized = True
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write what follows (R, heads, S, head size); all there is now."""
        end = self._length + key_states.shape[2]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[: self._rows, :, self._length : end] = states
        self._length = end
        return self._show()

    def move_rows(self, targets: Tensor, sources: Tensor, count: int) -> None:
        """Put rows ``sources`` in the places ``targets``, and go on with the first ``count``."""
        for room in self._rooms:
            if len(targets):
                room[targets, :, : self._length] = room[sources, :, : self._length]
        self._rows = count
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (room[: self._rows, :, : self._length] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values


def kept_cache(
    starts: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], most: int
) -> tuple[DynamicCache, list[KeptLayer]]:
    """A cache of rows that begin with keys and values, each given per layer; and its layers."""
    keys, values = (list(zip(*per_row, strict=True)) for per_row in zip(*starts, strict=True))
    layers = [KeptLayer(*pair, most) for pair in zip(keys, values, strict=True)]
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache, layers


def _room(starts: Sequence[Tensor], most: int) -> Tensor:
    """(R, heads, most, head size) that begins with ``starts``; those alike are copied at once."""
    _, heads, length, size = starts[0].shape
    room = torch.empty(
        len(starts), heads, most, size, dtype=starts[0].dtype, device=starts[0].device
    )
    rows_of: dict[int, list[int]] = {}
    for row, start in enumerate(starts):
        rows_of.setdefault(id(start), []).append(row)
    for rows in rows_of.values():
        chosen = slice(None) if len(rows) == len(starts) else rows
        room[chosen, :, :length] = starts[rows[0]]
    return room
