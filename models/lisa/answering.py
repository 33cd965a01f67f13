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
from transformers import LlamaForCausalLM

from data.errors import UserError
from models.lisa.batching import rows_at_once
from models.lisa.kept import kept_cache
from models.lisa.prefix import Prefix, embed_words


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


def read_suffixes(
    model: LlamaForCausalLM, prefix: Prefix, suffixes: Sequence[Sequence[int]]
) -> Tensor:
    """(B, S, hidden) final states of suffixes behind the prefix, with nothing decoded.

    Rows shorter than S end in states without meaning. For answers that are given, not asked.
    """
    return _Batch(model, [prefix] * len(suffixes), suffixes, 0).states


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
