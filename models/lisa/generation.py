"""Generate answers to many questions on images; the prefix of an image is read once.

The prefix is the part of the prompt before the question: the system text and the image's tokens.
Its keys and values are cached, and the questions are read in batches, padded on the right. The
padding is masked, so an answer does not depend on the other questions of its batch.

Keys and values are written into preallocated tensors: transformers' own cache copies them for
every token, which at LISA-nano's size takes as long as the attention itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

from data.errors import UserError
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
"""Share of a GPU's free memory for a batch of views, and for keys and values."""


def views_at_once(config: LisaConfig, device: torch.device) -> int:
    """Return the batch size in views, at most 4 on a CPU and 8 on a GPU.

    The batch is limited by SAM's global attention, heads x cells x cells float32 numbers per view,
    of which about three tensors exist at once. They may take 256 MB on a CPU (several views of a
    small LISA, one of a large LISA) and a quarter of the free memory on a GPU.
    """
    free = _free_bytes(device)
    room = _VIEW_BYTES if free is None else int(_SHARE * free)
    cells = config.sam_grid**2
    per_view = 3 * 4 * int(config.sam_vision.num_attention_heads) * cells * cells
    most = _MOST_VIEWS.get(device.type, _MOST_VIEWS_ON_GPU)
    return int(min(max(room // per_view, 1), most))


def rows_at_once(row_bytes: int, device: torch.device) -> int:
    """Return the batch size in questions whose keys and values take ``row_bytes`` each, >= 1."""
    free = _free_bytes(device)
    room = _CACHE_BYTES if free is None else max(int(_SHARE * free), _CACHE_BYTES)
    most = _MOST_ROWS.get(device.type, _MOST_ROWS_ON_GPU)
    return min(max(room // max(row_bytes, 1), 1), most)


def mask_parts(count: int, device: torch.device) -> int:
    """Return the number of batches in which to decode ``count`` masks.

    SAM repeats the image's embedding for each mask; small batches stay in a CPU's cache and are
    decoded about 10 % faster than one large batch.
    """
    return -(-count // _MOST_MASKS.get(device.type, _MOST_MASKS_ON_GPU))


def _free_bytes(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device, None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed.
    """Keys and values (R, heads, L, head size) of one layer, preallocated for L up to ``most``.

    Each of the R rows starts with a copy of its prefix, keys and values (1, heads, P, head size).
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], most: int) -> None:
        super().__init__()
        self.dtype, self.device = keys[0].dtype, keys[0].device
        self._rooms = [_room(starts, most) for starts in (keys, values)]
        self._rows, self._length = len(keys), keys[0].shape[2]
        self.is_initialized = True
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states (R, heads, S, head size); returns all keys and values so far."""
        end = self._length + key_states.shape[2]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[: self._rows, :, self._length : end] = states
        self._length = end
        return self._show()

    def move_rows(self, targets: Tensor, sources: Tensor, count: int) -> None:
        """Copy rows ``sources`` to rows ``targets``, then keep the first ``count`` rows."""
        for room in self._rooms:
            if len(targets):
                room[targets, :, : self._length] = room[sources, :, : self._length]
        self._rows = count
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (room[: self._rows, :, : self._length] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values


def preallocated_cache(
    starts: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], most: int
) -> tuple[DynamicCache, list[PreallocatedLayer]]:
    """Make a cache whose rows start with the given keys and values per layer; and its layers."""
    keys, values = (list(zip(*per_row, strict=True)) for per_row in zip(*starts, strict=True))
    layers = [PreallocatedLayer(*pair, most) for pair in zip(keys, values, strict=True)]
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache, layers


def _room(starts: Sequence[Tensor], most: int) -> Tensor:
    """Allocate (R, heads, most, head size) whose rows start with ``starts``.

    Rows with the same start are filled by one copy.
    """
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


@dataclass(frozen=True, eq=False)
class Prefix:
    """The cached start of all sequences on one image.

    Attributes:
        ids: token ids, with one IMAGE_TOKEN_ID for the image.
        length: number of positions P, with all tokens of the image.
        keys, values: (1, heads, P, head size) per layer.
    """

    ids: tuple[int, ...]
    length: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def read_prefix(model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor) -> Prefix:
    """Read the prefix of one image.

    ``ids`` end with IMAGE_TOKEN_ID, which ``image_tokens`` (1, N, hidden) replace.
    """
    return read_prefixes(model, ids, image_tokens)[0]


def read_prefixes(
    model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor
) -> list[Prefix]:
    """Read the prefixes of B images, ``image_tokens`` (B, N, hidden), in one batch."""
    words = embed_words(model, [list(ids[:-1])]).expand(len(image_tokens), -1, -1)
    embeddings = torch.cat([words, image_tokens.to(words.dtype)], dim=1)
    cache = DynamicCache()
    model.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    layers = cast(list[DynamicLayer], cache.layers)
    # (B, heads, P, head size) per layer, split by image.
    keys = zip(*(torch.split(cast(Tensor, layer.keys), 1) for layer in layers), strict=True)
    values = zip(*(torch.split(cast(Tensor, layer.values), 1) for layer in layers), strict=True)
    length = embeddings.shape[1]
    return [Prefix(tuple(ids), length, *pair) for pair in zip(keys, values, strict=True)]


def embed_words(model: LlamaForCausalLM, ids: list[list[int]]) -> Tensor:
    """Embed ids (B, S) of words as (B, S, hidden)."""
    table = model.model.embed_tokens
    return cast(Tensor, table(torch.tensor(ids, dtype=torch.long, device=table.weight.device)))


@dataclass(frozen=True)
class Stop:
    """Stopping rule of an answer: ``eos_id``, ``max_new_tokens``, optionally the first [SEG].

    The token ``refusal_id``, with which a refusal begins, is taken wherever its probability is at
    least ``refuse_from``; above 1, never out of turn.
    """

    eos_id: int
    seg_id: int
    max_new_tokens: int
    at_first_seg: bool
    refusal_id: int = 0
    refuse_from: float = 2.0


@dataclass(eq=False)
class Decoded:
    """One decoded answer.

    ``ids`` include the end token. ``seg_states`` (hidden,) are the states that predicted each
    [SEG], from the position before it; they become SAM's prompts. ``presence`` is the largest
    probability of [SEG] at any position, ``nearest`` the state at that position. ``strangeness``
    is the largest probability of the token that begins a refusal.
    """

    ids: list[int] = field(default_factory=list)
    seg_states: list[Tensor] = field(default_factory=list)
    presence: float = -1.0
    nearest: Tensor | None = None
    strangeness: float = 0.0

    def consider(self, presence: float, states: Tensor, row: int) -> None:
        """Update ``presence`` and ``nearest`` with row ``row`` of ``states`` (R, hidden)."""
        if presence > self.presence:
            self.presence, self.nearest = presence, states[row]


def decode(
    model: LlamaForCausalLM,
    prefixes: Sequence[Prefix],
    suffixes: Sequence[Sequence[int]],
    stop: Stop,
) -> list[Decoded]:
    """Decode answers to ``suffixes`` (ids after the image) greedily, in batches, in their order.

    ``prefixes`` holds the prefix of each suffix; all prefixes have the same length.

    Raises:
        UserError: a question exceeds the model's positions.
    """
    longest = max(map(len, suffixes), default=0)
    room = model.config.max_position_embeddings - max((p.length for p in prefixes), default=0)
    if longest > room:
        raise UserError(
            f"a query takes {longest} tokens, and the model has room for {room} behind the "
            "image: shorten the query"
        )
    decoded: list[Decoded | None] = [None] * len(suffixes)
    for rows in _batches(prefixes, suffixes, stop):
        batch_prefixes = [prefixes[row] for row in rows]
        batch_suffixes = [suffixes[row] for row in rows]
        batch = _Batch(model, batch_prefixes, batch_suffixes, stop.max_new_tokens)
        for row, answer in zip(rows, batch.decode(stop), strict=True):
            decoded[row] = answer
    return [answer for answer in decoded if answer is not None]


def _batches(
    prefixes: Sequence[Prefix], suffixes: Sequence[Sequence[int]], stop: Stop
) -> Iterator[list[int]]:
    """Yield batches of rows of similar length that fit into the memory for keys and values."""
    if not suffixes:
        return
    order = sorted(range(len(suffixes)), key=lambda row: len(suffixes[row]))
    prefix = prefixes[0]
    keys = prefix.keys[0]
    per_position = 2 * len(prefix.keys) * keys.shape[1] * keys.shape[3] * keys.element_size()
    longest = max(map(len, suffixes))
    per_row = per_position * (prefix.length + longest + stop.max_new_tokens)
    size = rows_at_once(per_row, keys.device)
    for start in range(0, len(order), size):
        yield order[start : start + size]


class _Batch:
    """A batch of suffixes, each read after a copy of its prefix.

    ``most_steps`` is the largest number of tokens to decode.

    Attributes:
        states: (B, S, hidden) final states of the suffixes.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        prefixes: Sequence[Prefix],
        suffixes: Sequence[Sequence[int]],
        most_steps: int,
    ) -> None:
        self._model = model
        prefix, count, width = prefixes[0], len(suffixes), max(map(len, suffixes))
        device, read = prefix.keys[0].device, prefix.length + width
        lengths = [len(suffix) for suffix in suffixes]
        most_steps = min(most_steps, model.config.max_position_embeddings - min(lengths))
        room = read + most_steps
        self._cache, self._layers = preallocated_cache([(p.keys, p.values) for p in prefixes], room)
        self._lengths = torch.tensor(lengths, device=device)
        self._next_positions = prefix.length + self._lengths
        filled = [[*suffix, *[0] * (width - len(suffix))] for suffix in suffixes]
        embeddings = embed_words(model, filled)
        # Additive attention mask, one row per question: 0 at the prefix, the suffix and decoded
        # tokens, minus infinity at the padding.
        slots = torch.arange(room, device=device)
        is_padding = (slots >= self._next_positions[:, None]) & (slots < read)
        self._mask = _as_scores(is_padding, embeddings.dtype)[:, None, None]
        steps = slots[prefix.length : read]
        is_later = _as_scores(slots[:read] > steps[:, None], embeddings.dtype)
        positions = steps.expand(count, -1)
        self.states = self._read(embeddings, positions, self._mask[..., :read] + is_later)
        self._length = read

    def decode(self, stop: Stop) -> list[Decoded]:
        """Decode greedily; rows that have ended leave the batch."""
        answers = [Decoded() for _ in range(len(self._lengths))]
        most = self._model.config.max_position_embeddings
        # The token after the last position can be predicted, but not read.
        limits = [min(stop.max_new_tokens, most + 1 - p) for p in self._next_positions.tolist()]
        rows = list(range(len(answers)))
        last = self.states[torch.arange(len(rows), device=self._lengths.device), self._lengths - 1]
        while True:
            logits = self._model.lm_head(last)
            probs = logits.float().softmax(dim=-1)
            strange = probs[:, stop.refusal_id]
            tokens = logits.argmax(dim=-1)
            tokens = torch.where(strange >= stop.refuse_from, stop.refusal_id, tokens)
            # One copy from the device per step; ids and probabilities are exact as float64.
            figures = (tokens, probs[:, stop.seg_id], strange)
            copied = torch.stack([figure.double() for figure in figures]).tolist()
            unfinished = []
            for slot, (row, number, presence, odd) in enumerate(zip(rows, *copied, strict=True)):
                answer, token = answers[row], int(number)
                answer.ids.append(token)
                answer.consider(presence, last, slot)
                answer.strangeness = max(answer.strangeness, odd)
                if token == stop.seg_id:
                    answer.seg_states.append(last[slot])
                is_last = token == stop.eos_id or (token == stop.seg_id and stop.at_first_seg)
                if not is_last and len(answer.ids) < limits[row]:
                    unfinished.append(slot)
            if not unfinished:
                return answers
            if len(unfinished) < len(rows):
                kept = self._keep(unfinished)
                rows, tokens = [rows[slot] for slot in kept], tokens[kept]
            last = self._step(tokens)

    def _step(self, tokens: Tensor) -> Tensor:
        """Read one more token per row, ids (R,); returns the states (R, hidden) after it."""
        self._length += 1
        embeddings = self._model.model.embed_tokens(tokens[:, None])
        positions, mask = self._next_positions[:, None], self._mask[..., : self._length]
        states = self._read(embeddings, positions, mask)
        self._next_positions = self._next_positions + 1
        return states[:, -1]

    def _keep(self, unfinished: list[int]) -> list[int]:
        """Keep the rows ``unfinished``; returns the former index of each remaining row.

        The last rows move into the slots of finished rows, so that few rows are copied.
        """
        count, staying = len(unfinished), set(unfinished)
        free = [slot for slot in range(count) if slot not in staying]
        moved = [slot for slot in unfinished if slot >= count]
        kept = list(range(count))
        for target, source in zip(free, moved, strict=True):
            kept[target] = source
        device = self._mask.device
        targets, sources = (torch.tensor(p, device=device, dtype=torch.long) for p in (free, moved))
        for layer in self._layers:
            layer.move_rows(targets, sources, count)
        self._mask, self._next_positions = self._mask[kept], self._next_positions[kept]
        return kept

    def _read(self, embeddings: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        output = self._model.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return cast(Tensor, output.last_hidden_state)


def _as_scores(is_hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Return attention scores of the same shape: minus infinity where hidden, 0 elsewhere."""
    return torch.zeros_like(is_hidden, dtype=dtype).masked_fill_(is_hidden, -torch.inf)
