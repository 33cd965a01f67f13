"""The conformance test of presence and held-back masks: each broken promise is named."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.types import Array
from models.teacher import (
    Conformance,
    ConformanceError,
    MaskGrid,
    TeacherAnswer,
    WithheldMask,
    check_teacher,
)
from pipeline.__main__ import main
from stages.teacher.try_teacher import synthetic_pictures

GRID = MaskGrid(4, 6, (6.0, 4.0))
TEXTS = ("a chair", "nothing")
HELD = WithheldMask(np.zeros((4, 6), np.float32), 0.5, np.ones(3, np.float32))


class Sound:
    """Masks chairs and holds back all else; how likely [SEG] was follows the brightness."""

    name, embedding_dim = "sound", 3

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        return GRID

    def encode_view(self, image: Array, view_id: str) -> float:
        return float(image.mean()) / 255

    def answer(self, view: float, texts: Sequence[str]) -> list[TeacherAnswer]:
        return [self.one(view, text) for text in texts]

    def one(self, view: float, text: str) -> TeacherAnswer:
        logits = np.full((4, 6), view - 2, np.float32)
        if text == "nothing":
            held = WithheldMask(logits, view, np.full(3, view, np.float32))
            return TeacherAnswer.without_mask("no", GRID, 3, view / 2, held)
        iou, token = np.full(1, 0.5, np.float32), np.ones((1, 3), np.float32)
        return TeacherAnswer("[SEG]", logits[None], iou, token, 1 - view / 2)


def spoilt(on: str = "nothing", **fields: Any) -> type[Sound]:
    """A teacher whose answers to one query have these fields."""

    class Spoilt(Sound):
        def one(self, view: float, text: str) -> TeacherAnswer:
            answer = super().one(view, text)
            return replace(answer, **fields) if text == on else answer

    return Spoilt


def held_back(**fields: Any) -> type[Sound]:
    """A teacher whose held-back masks have these fields."""
    return spoilt(withheld=replace(HELD, **fields))


def changing(part: str) -> type[Sound]:
    """A teacher whose presence, or held-back mask, depends on how many queries it is asked."""

    class Changing(Sound):
        def answer(self, view: float, texts: Sequence[str]) -> list[TeacherAnswer]:
            answers, alone = super().answer(view, texts), len(texts) == 1
            new: dict[str, Any] = {"withheld": HELD if alone else None, "presence": None}
            if part == "presence":
                new = {"presence": 0.75 if alone else 0.25}
            elif part == "token":
                new = {"withheld": replace(HELD, seg_embedding=HELD.seg_embedding * (1 + alone))}
            elif part == "lost presence":
                new = {"presence": None if alone else 0.25}
            return [replace(a, **new) if len(a.mask_logits) == 0 else a for a in answers]

    return Changing


_made = count()


class Unseeded(Sound):
    """Another held-back mask each time it is made."""

    def __init__(self) -> None:
        self.held = replace(HELD, mask_logits=HELD.mask_logits + next(_made))

    def one(self, view: float, text: str) -> TeacherAnswer:
        answer = super().one(view, text)
        return replace(answer, withheld=self.held) if text == "nothing" else answer


def test_a_teacher_that_holds_masks_back_conforms() -> None:
    told = check_teacher(Sound, synthetic_pictures(), TEXTS)
    assert told == Conformance(num_answers=4, num_with_masks=2)


@pytest.mark.parametrize("presence", [None, 0, 1, 0.5, np.float32(0.25), np.float64(1)])
def test_any_number_from_0_to_1_is_a_presence(presence: Any) -> None:
    check_teacher(spoilt(presence=presence), synthetic_pictures(), TEXTS)


BROKEN: list[tuple[Callable[[], Any], str]] = [
    (spoilt(presence=1.5), "query 'nothing': presence is 1.5, expected a number in [0, 1]"),
    (spoilt(presence=-0.5), "presence is -0.5"),
    (spoilt(presence=float("nan")), "presence is nan"),
    (spoilt(presence="likely"), "presence is 'likely'"),
    (spoilt(presence=True), "presence is True"),
    (spoilt(presence=np.full(2, 0.5, np.float32)), "presence is array"),
    (spoilt(on="a chair", withheld=HELD), "query 'a chair': a withheld mask beside 1 masks of"),
    (spoilt(withheld=(1, 2, 3)), "withheld is a tuple, not a WithheldMask"),
    (held_back(mask_logits=np.zeros((6, 4), np.float32)), "withheld mask_logits is (6, 4)"),
    (held_back(mask_logits=np.zeros((1, 4, 6), np.float32)), "withheld mask_logits is (1, 4, 6)"),
    (held_back(mask_logits=np.zeros((4, 6))), "withheld mask_logits is float64"),
    (held_back(mask_logits=[0.0]), "withheld mask_logits is a list"),
    (held_back(mask_logits=np.full((4, 6), np.inf, np.float32)), "not finite"),
    (held_back(seg_embedding=np.zeros(4, np.float32)), "withheld seg_embedding is (4,)"),
    (held_back(seg_embedding=np.full(3, np.nan, np.float32)), "not finite"),
    (held_back(predicted_iou=1.25), "withheld predicted_iou is 1.25"),
    (held_back(predicted_iou=float("nan")), "withheld predicted_iou is nan"),
    (changing("presence"), "presence changes by 0.5 when each query is asked alone"),
    (changing("lost presence"), "presence comes or goes when each query is asked alone"),
    (changing("token"), "withheld seg_embedding changes by 1 when each query is asked alone"),
    (changing("mask"), "withheld comes or goes when each query is asked alone"),
    (Unseeded, "withheld mask_logits changes by 1 from a second teacher of the same config"),
]


@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_each_broken_promise_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConformanceError, match=re.escape(message)):
        check_teacher(make, synthetic_pictures(), TEXTS)


PLUGGED = """
import numpy as np
from tests.models.test_conformance_withheld import Sound

class Loud(Sound):
    def one(self, view, text):
        answer = super().one(view, text)
        object.__setattr__(answer, "presence", {presence})
        return answer
"""


@pytest.mark.parametrize(("presence", "code"), [("0.5", 0), ("None", 0), ("2.0", 1)])
def test_the_command_checks_presence_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    presence: str,
    code: int,
) -> None:
    (tmp_path / "loud_teacher.py").write_text(PLUGGED.format(presence=presence))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "loud_teacher", raising=False)
    line = (
        "check-teacher",
        "--device",
        "cpu",
        "--class",
        "loud_teacher:Loud",
        "--query",
        "nothing",
    )
    assert main([*line]) == code
    told = capsys.readouterr()
    assert ("presence is 2.0" in told.err) == (code == 1)
