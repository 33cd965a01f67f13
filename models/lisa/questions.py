"""How queries become the tokens that LISA reads, the same for pictures and for words alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import UserError
from models.lisa.answering import Stop
from models.lisa.prompts import (
    TASK_SUFFIXES,
    Conversation,
    QuestionForm,
    build_prompt,
    question_of,
    strip_markers,
)
from models.lisa.tokenizer import IMAGE_TOKEN_ID, LisaTokenizer


@dataclass(frozen=True)
class LisaSettings:
    """How LISA is asked.

    Attributes:
        conversation: the prompt's template.
        use_start_end: whether <im_start> and <im_end> stand around the image.
        question_form: how a query becomes a question.
        task_suffix: LISA++'s task, a key of ``TASK_SUFFIXES``, or "" for none.
        best_of_three: take SAM's mask of highest predicted IoU, not LISA's single mask.
        max_new_tokens: the longest answer, from 1 on.
        whole_answer: decode all of an answer, for several masks; else stop at the first.
    """

    conversation: Conversation = "llava_v1"
    use_start_end: bool = True
    question_form: QuestionForm = "auto"
    task_suffix: str = ""
    best_of_three: bool = False
    max_new_tokens: int = 32
    whole_answer: bool = False


class Questions:
    """Puts queries into the words and tokens that a checkpoint was trained on.

    ``prefix_ids`` are those that all prompts begin with, up to the image, it included.

    Raises UserError for settings that the checkpoint cannot serve.
    """

    def __init__(self, tokenizer: LisaTokenizer, settings: LisaSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        if settings.task_suffix and settings.task_suffix not in TASK_SUFFIXES:
            known = ", ".join(TASK_SUFFIXES)
            raise UserError(f"no task {settings.task_suffix!r} of LISA++; there are: {known}")
        if settings.max_new_tokens < 1:
            raise UserError(f"max_new_tokens starts at 1, not {settings.max_new_tokens}")
        if settings.use_start_end and "<im_start>" not in tokenizer.added:
            raise UserError("this checkpoint has no <im_start>: set use_start_end to false")
        self.prefix_ids = split_at_image(self._ids_of(""))[0]

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of the prompt that asks for ``text``, IMAGE_TOKEN_ID where the image stands."""
        question = question_of(strip_markers(text), self._settings.question_form)
        return self._ids_of(question + TASK_SUFFIXES.get(self._settings.task_suffix, ""))

    def stop(self, at_first_seg: bool) -> Stop:
        """When an answer ends."""
        most = self._settings.max_new_tokens
        return Stop(self._tokenizer.eos_id, self._tokenizer.seg_id, most, at_first_seg)

    def _ids_of(self, question: str) -> list[int]:
        settings = self._settings
        prompt = build_prompt(question, settings.conversation, settings.use_start_end)
        return self._tokenizer.encode(prompt)


def split_at_image(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ids up to the image, it included, and ids after it."""
    cut = ids.index(IMAGE_TOKEN_ID) + 1
    return list(ids[:cut]), list(ids[cut:])
