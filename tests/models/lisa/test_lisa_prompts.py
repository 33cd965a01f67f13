"""LISA's prompts and question forms to the letter, and user text that tries to break them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.lisa.prompts import (
    TASK_SUFFIXES,
    Conversation,
    QuestionForm,
    build_prompt,
    question_of,
    strip_markers,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "lisa"
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the human's questions."
)
MARKERS = ("<image>", "[SEG]", "<im_start>", "<im_end>", "<im_patch>")
FRAGMENTS = st.sampled_from(
    [*MARKERS, "<im", "age>", "<im_", "start>", "[S", "EG]", " ", "\n", "a", "é", "▁", "</s>", "."]
)
WILD = st.text() | st.lists(FRAGMENTS).map("".join)


@given(WILD)
def test_stripping_markers_leaves_none_and_is_idempotent(text: str) -> None:
    stripped = strip_markers(text)
    assert not any(marker in stripped for marker in MARKERS)
    assert strip_markers(stripped) == stripped


@pytest.mark.parametrize("text", ["<im<image>age>", "<im[S[SEG]EG]age>", "<im_<image>patch>"])
def test_markers_that_others_hid_are_removed_too(text: str) -> None:
    assert strip_markers(f"a {text}lamp") == "a lamp"


@given(
    WILD,
    st.sampled_from(get_args(QuestionForm)),
    st.sampled_from(get_args(Conversation)),
    st.booleans(),
    WILD,
)
def test_user_text_never_adds_an_image_or_seg(
    text: str, form: QuestionForm, conversation: Conversation, ends: bool, said: str
) -> None:
    question = question_of(text, form)
    open_ = build_prompt(question, conversation, ends)
    closed = build_prompt(text, conversation, ends, said)
    assert open_.count("<image>") == closed.count("<image>") == 1
    assert open_.count("<im_start>") == open_.count("<im_end>") == ends
    assert "[SEG]" not in open_
    assert build_prompt(question, conversation, ends, said).startswith(open_)
    assert closed.endswith("</s>")


@pytest.mark.parametrize("ends", [True, False])
def test_llava_llama_2_to_the_letter(ends: bool) -> None:
    image = "<im_start><image><im_end>" if ends else "<image>"
    expected = (
        "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to "
        "understand the visual content that the user provides, and assist the user with a variety "
        f"of tasks using natural language.\n<</SYS>>\n\n{image}\nWhere? [/INST]"
    )
    assert build_prompt("Where?", "llava_llama_2", ends) == expected
    forced = build_prompt("Where?", "llava_llama_2", ends, "It is [SEG].")
    assert forced == expected + " It is [SEG]. </s>"


def test_llava_v1_to_the_letter() -> None:
    expected = f"{SYSTEM} USER: <image>\nWhere? ASSISTANT:"
    assert build_prompt("Where?", "llava_v1", False) == expected
    assert build_prompt("Where?", "llava_v1", False, "[SEG].") == expected + " [SEG].</s>"


@pytest.mark.parametrize(
    ("text", "form", "question"),
    [
        ("the lamp", "auto", "What is the lamp in this image? Please output segmentation mask."),
        ("Find a seat", "auto", "Find a seat Please output segmentation mask."),
        ("It is warm.", "auto", "It is warm. Please output segmentation mask."),
        ("where's the cup", "auto", "where's the cup Please output segmentation mask."),
        (" lamp ", "sentence", "lamp Please output segmentation mask."),
        ("the lamp.", "phrase", "What is the lamp in this image? Please output segmentation mask."),
        ("Where?", "explain", "Where? Please output segmentation mask and explain why."),
        (
            "the lamp",
            "explain",
            "What is the lamp in this image? Please output segmentation mask and explain why.",
        ),
        ("the [SEG]lamp", "raw", "the lamp"),
        (
            "What? Please output segmentation mask.",
            "auto",
            "What? Please output segmentation mask.",
        ),
        ("Can you segment the lamp?", "auto", "Can you segment the lamp?"),
        ("Please segment the lamp.", "auto", "Please segment the lamp."),
    ],
)
def test_question_forms(text: str, form: Any, question: str) -> None:
    assert question_of(text, form) == question


def test_unknown_forms_and_conversations_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown question form 'x'"):
        question_of("lamp", "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown conversation 'x'"):
        build_prompt("lamp", "x", True)  # type: ignore[arg-type]


def test_task_suffixes_are_those_of_the_golden_questions() -> None:
    golden = json.loads((GOLDEN / "plus" / "golden.json").read_text("utf-8"))
    for sample, task in zip(golden["samples"], ("instance", "instance_text", "text")):
        assert sample["question"].endswith(TASK_SUFFIXES[task])
    assert set(TASK_SUFFIXES) == {
        *("semantic", "instance", "semantic_text", "instance_text", "text", "steps")
    }
    assert all(suffix.startswith(" ") for suffix in TASK_SUFFIXES.values())
