"""Decoding of many questions about one image, whose shared prefix is read once.

The prefix is all that stands before the question: the system text and the image's tokens. Its
keys and values are kept, and the questions follow in batches, filled up on their right; what
fills them is masked, so a question's answer does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

from data.errors import UserError

MOST_ROWS = 64
"""Questions read together at most; fewer where their keys and values would take more bytes."""
_MOST_CACHE_BYTES = 2 * 2**30


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

    def consider(self, presence: float, state: Tensor) -> None:
        """Note how near to [SEG] the answer came at one of its tokens."""
        if presence > self.presence:
            self.presence, self.nearest = presence, state


def read_prefix(model: LlamaForCausalLM, ids: Sequence[int], image_tokens: Tensor) -> Prefix:
    """Read what comes before the question: ``ids`` end with the image's one id.

    ``image_tokens`` (1, N, hidden) take its place.
    """
    words = _embed(model, [list(ids[:-1])])
    embeddings = torch.cat([words, image_tokens.to(words.dtype)], dim=1)
    cache = DynamicCache()
    model.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    layers = cast(list[DynamicLayer], cache.layers)
    keys = tuple(cast(Tensor, layer.keys) for layer in layers)
    values = tuple(cast(Tensor, layer.values) for layer in layers)
    return Prefix(tuple(ids), embeddings.shape[1], keys, values)


def decode(
    model: LlamaForCausalLM, prefix: Prefix, suffixes: Sequence[Sequence[int]], stop: Stop
) -> list[Decoded]:
    """Greedy answers to ``suffixes`` (ids after the image), in their order, in batches.

    Raises:
        UserError: a question is longer than the model's positions.
    """
    longest = max(map(len, suffixes), default=0)
    room = model.config.max_position_embeddings - prefix.length
    if longest > room:
        raise UserError(
            f"a query takes {longest} tokens, and the model has room for {room} behind the "
            "image: shorten the query"
        )
    decoded: list[Decoded | None] = [None] * len(suffixes)
    for rows in _batches(model, prefix, suffixes, stop):
        batch = _Batch(model, prefix, [suffixes[row] for row in rows])
        for row, answer in zip(rows, batch.decode(stop), strict=True):
            decoded[row] = answer
    return [answer for answer in decoded if answer is not None]


def read_suffixes(
    model: LlamaForCausalLM, prefix: Prefix, suffixes: Sequence[Sequence[int]]
) -> Tensor:
    """(B, S, hidden) final states of suffixes behind the prefix, with nothing decoded.

    Rows shorter than S end in states without meaning. For answers that are given, not asked.
    """
    return _Batch(model, prefix, suffixes).states


def _batches(
    model: LlamaForCausalLM, prefix: Prefix, suffixes: Sequence[Sequence[int]], stop: Stop
) -> Iterator[list[int]]:
    """Rows to read together: of like length, and no more than memory is set aside for."""
    order = sorted(range(len(suffixes)), key=lambda row: len(suffixes[row]))
    keys = prefix.keys[0]
    per_position = 2 * len(prefix.keys) * keys.shape[1] * keys.shape[3] * keys.element_size()
    longest = max(map(len, suffixes), default=0)
    per_row = per_position * (prefix.length + longest + stop.max_new_tokens)
    size = min(max(_MOST_CACHE_BYTES // per_row, 1), MOST_ROWS)
    for start in range(0, len(order), size):
        yield order[start : start + size]


class _Batch:
    """Suffixes read behind a prefix; the prefix itself is copied, never written to.

    Attributes:
        states: (B, S, hidden) final states of the suffixes.
    """

    def __init__(
        self, model: LlamaForCausalLM, prefix: Prefix, suffixes: Sequence[Sequence[int]]
    ) -> None:
        self._model = model
        self._cache = DynamicCache()
        count, width = len(suffixes), max(map(len, suffixes))
        for layer, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            self._cache.update(
                keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), layer
            )
        device = prefix.keys[0].device
        self._lengths = torch.tensor([len(suffix) for suffix in suffixes], device=device)
        steps = torch.arange(width, device=device)
        # 1 where there is something to attend to: the whole prefix, and no filling.
        self._mask = torch.cat(
            [
                torch.ones(count, prefix.length, dtype=torch.long, device=device),
                (steps < self._lengths[:, None]).long(),
            ],
            dim=1,
        )
        self._next_positions = prefix.length + self._lengths
        positions = (prefix.length + steps).expand(count, -1)
        filled = [[*suffix, *[0] * (width - len(suffix))] for suffix in suffixes]
        self.states = self._read(_embed(model, filled), positions)

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
            near = logits.float().softmax(dim=-1)[:, stop.seg_id].tolist()
            going = []
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                answer = answers[row]
                answer.ids.append(token)
                answer.consider(near[place], last[place])
                if token == stop.seg_id:
                    answer.seg_states.append(last[place])
                is_last = token == stop.eos_id or (token == stop.seg_id and stop.at_first_seg)
                if not is_last and len(answer.ids) < limits[row]:
                    going.append(place)
            if not going:
                return answers
            if len(going) < len(rows):
                rows = [rows[place] for place in going]
                tokens = tokens[going]
                self._keep(torch.tensor(going, device=tokens.device))
            last = self._step(tokens)

    def _step(self, tokens: Tensor) -> Tensor:
        """Read one more token per row: (R,) to the states (R, hidden) behind it."""
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)[:, None]], dim=1)
        embeddings = self._model.model.embed_tokens(tokens[:, None])
        states = self._read(embeddings, self._next_positions[:, None])
        self._next_positions = self._next_positions + 1
        return states[:, -1]

    def _keep(self, places: Tensor) -> None:
        self._cache.batch_select_indices(places)
        self._mask, self._next_positions = self._mask[places], self._next_positions[places]

    def _read(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        output = self._model.model(
            inputs_embeds=embeddings,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return cast(Tensor, output.last_hidden_state)


def _embed(model: LlamaForCausalLM, ids: list[list[int]]) -> Tensor:
    """(B, S) ids of words to (B, S, hidden)."""
    table = model.model.embed_tokens
    return cast(Tensor, table(torch.tensor(ids, dtype=torch.long, device=table.weight.device)))
