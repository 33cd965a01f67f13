"""Questions and answers as tokens: several of one picture packed into one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.types import Array
from models.lisa.prompts import IMAGE_MARKER, QuestionForm, build_prompt, question_of
from models.lisa.tokenizer import IMAGE_TOKEN_ID, LisaTokenizer

UNKNOWN = -1
_FORMS: tuple[QuestionForm, ...] = ("raw", "raw", "sentence", "auto")
_WORD_NOISE = 0.04
_MULTIPLE = 8


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences of B pictures with K questions each, S tokens long, all int64.

    ``ids``, ``segments``, ``positions`` (B, S) as ``models.lisa.trainee.Sequences``; ``targets``
    (B, S) the next token where that is an answer's, else ``UNKNOWN``; ``decisions`` (B, S) 1
    where the next token says whether there is a mask; ``ask_at`` (B, K) the place of that
    state, from which the mask is prompted.
    """

    ids: Array
    segments: Array
    positions: Array
    targets: Array
    decisions: Array
    ask_at: Array


class Answers:
    """The form in which LISA-nano is asked and answers, as token ids."""

    def __init__(self, tokenizer: LisaTokenizer) -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.encode(build_prompt("", "llava_v1", True))
        self.prefix = ids[: ids.index(IMAGE_TOKEN_ID)]
        self._answers: dict[tuple[str, bool], list[int]] = {}
        self._deciding = {tokenizer.seg_id, tokenizer.encode_part("not", bos=False)[0]}
        self._words = (259, tokenizer.added["<im_patch>"])

    def question(self, text: str, form: QuestionForm) -> list[int]:
        """Everything after the image, up to where the answer begins."""
        prompt = build_prompt(question_of(text, form), "llava_v1", True)
        return self.tokenizer.encode_part(prompt.split(IMAGE_MARKER)[1], bos=False)

    def noisy_question(self, text: str, rng: np.random.Generator) -> list[int]:
        """The question in one of several forms, some of its words replaced by any others."""
        ids = self.question(text, _FORMS[int(rng.integers(len(_FORMS)))])
        for i in np.flatnonzero(rng.random(len(ids)) < _WORD_NOISE):
            if 0 < i < len(ids) - 2:  # The image's end and "ASSISTANT:" stay.
                ids[int(i)] = int(rng.integers(*self._words))
        return ids

    def answer(self, name: str, shown: bool) -> list[int]:
        """``It is the <name>, [SEG].`` or ``It is the <name>, not in this view.``, and its end."""
        key = name, shown
        if key not in self._answers:
            text = f"It is the {name}, " + ("[SEG]." if shown else "not in this view.")
            ids = self.tokenizer.encode_part(text, bos=False)
            self._answers[key] = [*ids, self.tokenizer.eos_id]
        return self._answers[key]

    def decision(self, answer: Sequence[int]) -> int:
        """Place in an answer of the token that says whether there is a mask."""
        return next(i for i, token in enumerate(answer) if token in self._deciding)

    def pack(self, pictures: Sequence[Sequence[tuple[list[int], list[int]]]]) -> Packed:
        """Questions and answers of each picture, padded to the longest."""
        longest = max(sum(len(q) + len(a) for q, a in asked) for asked in pictures)
        longest = -(-longest // _MULTIPLE) * _MULTIPLE
        shape = len(pictures), longest
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        segments, targets = np.full(shape, UNKNOWN), np.full(shape, UNKNOWN)
        decisions = np.zeros(shape, np.int64)
        ask_at = np.zeros((len(pictures), len(pictures[0])), np.int64)
        for row, asked in enumerate(pictures):
            start = 0
            for k, (question, answer) in enumerate(asked):
                end = start + len(question) + len(answer)
                ids[row, start:end] = [*question, *answer]
                segments[row, start:end] = k
                positions[row, start:end] = np.arange(end - start)
                first = start + len(question) - 1
                targets[row, first : end - 1] = answer
                ask_at[row, k] = first + self.decision(answer)
                decisions[row, ask_at[row, k]] = 1
                start = end
        return Packed(ids, segments, positions, targets, decisions, ask_at)
