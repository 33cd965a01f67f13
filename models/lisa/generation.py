"""Generate the answers to many questions about one image, whose shared prefix is read once.

transformers' own cache makes every key and value anew for each token; at LISA-nano's size that
copying took as long as the attention itself.

The prefix is all that stands before the question: the system text and the image's tokens. Its
keys and values are kept, and the questions follow in batches, filled up on their right; what
fills them is masked, so a question's answer does not depend on its company.
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


@dataclass(frozen=True, eq=False)
class Prefix:
    """The start that all sequences about an image share, read.

    Attributes:
        ids: its tokens, IMAGE_TOKEN_ID for the whole image.
        length: positions P it takes; an image takes many.
        keys, values: per layer (1, heads, P, head size).
    """

    ids: tuple[int, ...]
    length: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def read_prefix(model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor) -> Prefix:
    """Read what comes before the question: ``ids`` end with the image's one id.

    ``image_tokens`` (1, N, hidden) take its place.
    """
    return read_prefixes(model, ids, image_tokens)[0]


def read_prefixes(
    model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor
) -> list[Prefix]:
    """The same before each of B images, (B, N, hidden), which are read together."""
    words = embed_words(model, [list(ids[:-1])]).expand(len(image_tokens), -1, -1)
    embeddings = torch.cat([words, image_tokens.to(words.dtype)], dim=1)
    cache = DynamicCache()
    model.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    layers = cast(list[DynamicLayer], cache.layers)
    # (B, heads, P, head size) each, taken apart by image.
    keys = zip(*(torch.split(cast(Tensor, layer.keys), 1) for layer in layers), strict=True)
    values = zip(*(torch.split(cast(Tensor, layer.values), 1) for layer in layers), strict=True)
    length = embeddings.shape[1]
    return [Prefix(tuple(ids), length, *pair) for pair in zip(keys, values, strict=True)]


def embed_words(model: LlamaForCausalLM, ids: list[list[int]]) -> Tensor:
    """(B, S) ids of words to (B, S, hidden)."""
    table = model.model.embed_tokens
    return cast(Tensor, table(torch.tensor(ids, dtype=torch.long, device=table.weight.device)))


@dataclass(frozen=True)
class Stop:
    """When an answer ends: at ``eos_id``, after ``max_new_tokens``, or at the first [SEG]."""

    eos_id: int
    seg_id: int
    max_new_tokens: int
    at_first_seg: bool


@dataclass(eq=False)
class Decoded:
    """One answer: its ids, end included, and (hidden,) the state that predicted each [SEG].

    That state, of the position before [SEG], is what asks SAM for a mask. ``presence`` is the
    largest probability that [SEG] had anywhere in the answer, ``nearest`` the state there: what
    would have asked, had the answer gone that way.
    """

    ids: list[int] = field(default_factory=list)
    seg_states: list[Tensor] = field(default_factory=list)
    presence: float = -1.0
    nearest: Tensor | None = None

    def consider(self, presence: float, states: Tensor, place: int) -> None:
        """Note how near to [SEG] the answer came with the state (hidden,) at ``place``."""
        if presence > self.presence:
            self.presence, self.nearest = presence, states[place]


def decode(
    model: LlamaForCausalLM,
    prefixes: Sequence[Prefix],
    suffixes: Sequence[Sequence[int]],
    stop: Stop,
) -> list[Decoded]:
    """Greedy answers to ``suffixes`` (ids after the image), in their order, in batches.

    ``prefixes``: what each stands behind, all of one length, for questions on several images.

    Raises:
        UserError: a question is longer than the model's positions.
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
        behind = [prefixes[row] for row in rows]
        batch = _Batch(model, behind, [suffixes[row] for row in rows], stop.max_new_tokens)
        for row, answer in zip(rows, batch.decode(stop), strict=True):
            decoded[row] = answer
    return [answer for answer in decoded if answer is not None]


def _batches(
    prefixes: Sequence[Prefix], suffixes: Sequence[Sequence[int]], stop: Stop
) -> Iterator[list[int]]:
    """Rows to read together: of like length, and no more than memory is set aside for."""
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
    """Suffixes read, each behind its prefix, which is copied and never written to.

    ``most_steps`` are the tokens that may follow.

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
        self._cache, self._layers = kept_cache([(p.keys, p.values) for p in prefixes], room)
        self._lengths = torch.tensor(lengths, device=device)
        self._next_positions = prefix.length + self._lengths
        filled = [[*suffix, *[0] * (width - len(suffix))] for suffix in suffixes]
        embeddings = embed_words(model, filled)
        # What is added to an attention score: 0 where there is something to attend to, which
        # is the whole prefix, no filling, and all that follows. A row per question.
        places = torch.arange(room, device=device)
        is_filling = (places >= self._next_positions[:, None]) & (places < read)
        self._mask = _as_scores(is_filling, embeddings.dtype)[:, None, None]
        steps = places[prefix.length : read]
        is_later = _as_scores(places[:read] > steps[:, None], embeddings.dtype)
        positions = steps.expand(count, -1)
        self.states = self._read(embeddings, positions, self._mask[..., :read] + is_later)
        self._length = read

    def decode(self, stop: Stop) -> list[Decoded]:
        """Greedy answers; rows that have ended are read no further."""
        answers = [Decoded() for _ in range(len(self._lengths))]
        most = self._model.config.max_position_embeddings
        # The token behind the last position can still be predicted, but not be read.
        limits = [min(stop.max_new_tokens, most + 1 - p) for p in self._next_positions.tolist()]
        rows = list(range(len(answers)))
        last = self.states[torch.arange(len(rows), device=self._lengths.device), self._lengths - 1]
        while True:
            logits = self._model.lm_head(last)
            tokens = logits.argmax(dim=-1)
            near = logits.float().softmax(dim=-1)[:, stop.seg_id]
            # One copy from the device a step; both kinds of number are exact as float64.
            told = torch.stack([tokens.double(), near.double()]).tolist()
            going = []
            for place, (row, number, presence) in enumerate(zip(rows, *told, strict=True)):
                answer, token = answers[row], int(number)
                answer.ids.append(token)
                answer.consider(presence, last, place)
                if token == stop.seg_id:
                    answer.seg_states.append(last[place])
                is_last = token == stop.eos_id or (token == stop.seg_id and stop.at_first_seg)
                if not is_last and len(answer.ids) < limits[row]:
                    going.append(place)
            if not going:
                return answers
            if len(going) < len(rows):
                kept = self._keep(going)
                rows, tokens = [rows[place] for place in kept], tokens[kept]
            last = self._step(tokens)

    def _step(self, tokens: Tensor) -> Tensor:
        """Read one more token per row: (R,) to the states (R, hidden) behind it."""
        self._length += 1
        embeddings = self._model.model.embed_tokens(tokens[:, None])
        positions, mask = self._next_positions[:, None], self._mask[..., : self._length]
        states = self._read(embeddings, positions, mask)
        self._next_positions = self._next_positions + 1
        return states[:, -1]

    def _keep(self, going: list[int]) -> list[int]:
        """Go on with the rows ``going``; which row each place holds now.

        The last of them take the places of those that have ended; the rest need not be moved.
        """
        count, staying = len(going), set(going)
        free = [place for place in range(count) if place not in staying]
        moved = [place for place in going if place >= count]
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
    """Of the same shape: 0 where something can be seen, else minus infinity."""
    return torch.zeros_like(is_hidden, dtype=dtype).masked_fill_(is_hidden, -torch.inf)
