"""LISA's answers per second compared with its published code, on the CPU.

Both sides use the same network and decode whole answers, so that ids and masks can be compared one
by one. Two checkpoints are used: LISA-nano, which the project contains and the demo uses, and the
golden checkpoint of the tests (random weights in LISA-7B's layout). Both sides run on one thread,
as the demo's workers do, because small networks gain little from more threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import Row, Scale, compare, peak_megabytes, require, row
from benchmarks.reference import lisa_slow
from benchmarks.reference.lisa_slow import SlowAnswer
from data.types import Array
from models.lisa.checkpoint import LoadedLisa, load_lisa
from models.lisa.prompts import build_prompt
from models.lisa.teacher import FullAnswer, LisaSettings, LisaTeacher
from stages.teacher.identity import NANO

_GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "lisa" / "v1"
_CHECKPOINTS = {"lisa_nano": NANO, "golden": _GOLDEN / "checkpoint"}
_MAX_NEW_TOKENS = 16
_TOLERANCE = 1e-4
# Few queries, lest the allocator's own wobble hide what a view would leave behind.
_MEMORY_QUERIES = 4
_MEMORY_MARGIN = 1.25
_QUESTIONS = (
    "Where is the {} in this image? Please output segmentation mask.",
    "Can you segment the {} near the window",
    "What is the {}?",
    "Please segment the table, the cup and the {} separately.",
)
_THINGS = ("chair", "lamp", "plant", "clock", "sofa", "door")


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time of one view's answers, and memory as views are added, of both checkpoints."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            one
            for name, checkpoint in _CHECKPOINTS.items()
            # The reference knows no threshold of refusals.
            for one in _rows(name, replace(load_lisa(checkpoint), refusal=None), scale, repeats)
        ]
    finally:
        torch.set_num_threads(threads)


def _rows(name: str, loaded: LoadedLisa, scale: Scale, repeats: int) -> list[Row]:
    settings = LisaSettings(question_form="raw", max_new_tokens=_MAX_NEW_TOKENS, whole_answer=True)
    teacher = LisaTeacher(loaded, settings, "lisa")
    with Image.open(_GOLDEN / "images" / "img0.png") as file:
        image = np.asarray(file.convert("RGB"))
    texts = [
        _QUESTIONS[n % len(_QUESTIONS)].format(_THINGS[n % len(_THINGS)])
        for n in range(scale.queries)
    ]

    def ours() -> Iterator[FullAnswer]:
        yield from teacher.answers_in_full(teacher.encode_view(image, "view"), texts)

    def theirs() -> Iterator[SlowAnswer]:
        for text in texts:
            prompt = build_prompt(text, settings.conversation, settings.use_start_end)
            yield lisa_slow.answer(loaded, image, prompt, _MAX_NEW_TOKENS)

    label = f"teacher ({name}), {len(texts)} queries on a view"
    rows = compare(label, ours, theirs, _check, target=10, repeats=repeats)
    if not rows:
        return []
    asked = texts[:_MEMORY_QUERIES]
    num_many = scale.views + 10
    num_few = num_many // 6
    few, many = (_memory(teacher, image, asked, views) for views in (num_few, num_many))
    limit = f"limit of memory, {_MEMORY_MARGIN} x that of {num_few}"
    label = f"teacher ({name}), {num_many} views: {limit}"
    return [*rows, row(label, many, _MEMORY_MARGIN * few, "MB", 1, 1)]


def _memory(teacher: LisaTeacher, image: Array, texts: list[str], num_views: int) -> float:
    def answers() -> Iterator[int]:
        for number in range(num_views):
            view = teacher.encode_view(np.roll(image, number, axis=1), f"view{number}")
            yield len(teacher.answer(view, texts))

    return peak_megabytes(answers)


def _check(mine: FullAnswer, theirs: SlowAnswer) -> None:
    require(mine.output_ids.tolist() == theirs.output_ids, f"another answer: {mine.text!r}")
    pairs = (
        (mine.seg_embedding, theirs.seg_embedding),
        (mine.low_res_masks[:, 0], theirs.low_res_masks),
        (mine.iou[:, 0], theirs.iou),
    )
    for left, right in pairs:
        worst = float(np.abs(left - right.numpy()).max(initial=0))
        require(worst <= _TOLERANCE, f"values differ by up to {worst:.2g}")
