"""Conversation templates and question forms of LISA and LISA++, exactly as in training.

The network was trained on these strings; an additional space makes a different prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

Conversation = Literal["llava_v1", "llava_llama_2"]
QuestionForm = Literal["auto", "sentence", "phrase", "explain", "raw"]

IMAGE_MARKER = "<image>"
SEG_MARKER = "[SEG]"
START_MARKER = "<im_start>"
END_MARKER = "<im_end>"
_MARKERS = (IMAGE_MARKER, SEG_MARKER, START_MARKER, END_MARKER, "<im_patch>")

_LLAVA_V1_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

TASK_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        "semantic": (
            " Generate a mask for semantic segmentation. Focus on identifying the category as a"
            " whole; do not distinguish between individual instances within the same category."
        ),
        "instance": (
            " Generate instance segmentation masks. Each countable object within the same"
            " category should have a separate mask. Ignore uncountable categories for individual"
            " masking."
        ),
        "semantic_text": (
            " Provide a textual answer and generate a semantic segmentation mask. Focus on"
            " categorizing the entire class without separating individual instances."
        ),
        "instance_text": (
            " Respond with text and provide instance segmentation mask predictions. Different"
            " instances within the same countable category should be identified with separate"
            " masks. A single mask suffices for uncountable categories."
        ),
        "text": (
            " Respond to the question using text only. Do not generate any segmentation masks."
        ),
        "steps": " Answer the question with a step-by-step explanation.",
    }
)
"""Task sentences of LISA++, appended to a question with their leading space."""

_MASK_REQUEST = "Please output segmentation mask."
_EXPLAIN_REQUEST = "Please output segmentation mask and explain why."
_ASKS_ALREADY = re.compile(r"(?:(?:can|could|would) you |please )?segment\b", re.IGNORECASE)
_SENTENCE_ENDS = (".", "?", "!")
_SENTENCE_STARTS = frozenset(
    "are can choose could detect did do does find get give has have highlight how identify if"
    " is let locate please segment select should show tell was were what when where which who"
    " whom whose why will would".split()
)


def strip_markers(text: str) -> str:
    """Remove the model's marker strings from user text.

    A second ``<image>`` would break the insertion of the image tokens, and a ``[SEG]`` in the
    question would be taken for one in the answer. Removal is repeated until no marker is left,
    because removing one may join the parts of another.
    """
    return _without(text, _MARKERS)


def question_of(text: str, form: QuestionForm) -> str:
    """Return the question that asks for the mask of ``text``, without markers.

    Args:
        text: the query, a phrase ("the red chair") or a sentence ("Find the chair.").
        form: ``sentence``: the text, then the request for a mask; ``phrase``: "What is <text>
            in this image?", then the request; ``auto``: one of these two, by the end and the
            first word of the text; ``explain``: like ``auto``, with a request to explain why;
            ``raw``: the text is the whole question. A text that contains "segmentation mask" is
            not changed, nor, with ``auto``, a text such as "Can you segment ...".

    Raises:
        ValueError: ``form`` is unknown.
    """
    text = strip_markers(text)
    if form == "raw":
        return text
    text = text.strip()
    if "segmentation mask" in text.lower():
        return text
    match form:
        case "sentence":
            return _request(text, _MASK_REQUEST)
        case "phrase":
            return _request(_what_is(text), _MASK_REQUEST)
        case "auto":
            if _ASKS_ALREADY.match(text):
                return text
            return _request(text if _is_sentence(text) else _what_is(text), _MASK_REQUEST)
        case "explain":
            return _request(text if _is_sentence(text) else _what_is(text), _EXPLAIN_REQUEST)
    raise ValueError(f"unknown question form {form!r}")


def build_prompt(
    question: str, conversation: Conversation, use_start_end: bool, answer: str | None = None
) -> str:
    """Build the prompt of one conversation turn on one image.

    Args:
        question: the user's question; markers in it are removed.
        conversation: the template (``llava_v1`` for the chats of all published checkpoints).
        use_start_end: put the image between ``<im_start>`` and ``<im_end>``.
        answer: the assistant's answer with its ``[SEG]``, for training or forced decoding; None
            ends the prompt where the model's answer begins.

    Returns:
        The prompt; it holds ``<image>`` exactly once.

    Raises:
        ValueError: ``conversation`` is unknown.
    """
    image = f"{START_MARKER}{IMAGE_MARKER}{END_MARKER}" if use_start_end else IMAGE_MARKER
    message = f"{image}\n{strip_markers(question)}"
    reply = None if answer is None else _without(answer, (IMAGE_MARKER,))
    match conversation:
        case "llava_v1":
            prompt = f"{_LLAVA_V1_SYSTEM} USER: {message} ASSISTANT:"
            return prompt if reply is None else f"{prompt} {reply}</s>"
        case "llava_llama_2":
            prompt = f"[INST] <<SYS>>\n{_LLAMA_2_SYSTEM}\n<</SYS>>\n\n{message} [/INST]"
            return prompt if reply is None else f"{prompt} {reply} </s>"
    raise ValueError(f"unknown conversation {conversation!r}")


def _without(text: str, markers: Iterable[str]) -> str:
    """Remove ``markers`` from ``text`` repeatedly until none is left."""
    pattern = re.compile("|".join(map(re.escape, markers)))
    removed = 1
    while removed:
        text, removed = pattern.subn("", text)
    return text


def _is_sentence(text: str) -> bool:
    first = re.match(r"[a-z]+", text.lower())
    return text.endswith(_SENTENCE_ENDS) or bool(first and first[0] in _SENTENCE_STARTS)


def _what_is(phrase: str) -> str:
    return f"What is {phrase.rstrip(' .')} in this image?"


def _request(text: str, request: str) -> str:
    return f"{text} {request}".lstrip()
