"""The conformance test: our teachers pass it, and each broken promise is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from data.types import Array
from models.teacher import Conformance, ConformanceError, MaskGrid, TeacherAnswer, check_teacher
from pipeline.__main__ import main
from stages.configs import TeacherConfig
from stages.teacher.make_teacher import make_custom, make_lisa
from stages.teacher.try_teacher import synthetic_pictures
from tests.support.worlds.teacher_world import EXACT, disc_teacher

GOLDEN = Path(__file__).parents[1] / "golden" / "lisa"
TEXTS = ("a chair", "the bed", "nothing")
LARGE = np.float32(4)


class Sound:
    """A teacher that keeps every promise: brightness, shifted by the length of the query."""

    name = "sound"
    embedding_dim = 3

    def mask_grid(self, height: int, width: int) -> Any:
        return MaskGrid(4, 6, (6.0, 4.0))

    def encode_view(self, image: Array, view_id: str) -> Any:
        return float(image.mean())

    def answer(self, view: Any, texts: Sequence[str]) -> Any:
        return [self.one(view, text) for text in texts]

    def one(self, view: float, text: str) -> Any:
        if text == "nothing":
            return TeacherAnswer.without_mask("no", MaskGrid(4, 6, (6.0, 4.0)), 3)
        logits = np.full((2, 4, 6), view / 100 - len(text), np.float32)
        iou = np.array([0.25, 0.5], np.float32)
        return TeacherAnswer("[SEG] [SEG]", logits, iou, np.ones((2, 3), np.float32))


def spoilt(**fields: Any) -> type[Sound]:
    """A teacher whose answers with masks have these fields."""

    class Spoilt(Sound):
        def one(self, view: float, text: str) -> Any:
            answer = super().one(view, text)
            return replace(answer, **fields) if text != "nothing" else answer

    return Spoilt


def having(**members: Any) -> type[Sound]:
    """A teacher with other members."""
    return type("Having", (Sound,), members)


def paints_on_the_image(self: Sound, image: Array, view_id: str) -> float:
    mean = float(image.mean())
    image[0] = 255 - image[0]
    return mean


def forgets_the_view(self: Any, image: Array, view_id: str) -> None:
    self.last = float(image.mean())


def numbered(self: Any, view: Any, texts: Sequence[str]) -> list[Any]:
    """Answers that depend on a query's place in the batch."""
    return [replace(self.one(view, text), text=str(i)) for i, text in enumerate(texts)]


def fewer_in_company(self: Any, view: Any, texts: Sequence[str]) -> list[Any]:
    return [self.one(view + LARGE * (len(texts) > 1) * 100, text) for text in texts]


class Drawing(Sound):
    """Draws from a generator of its own, seeded anew in no call."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def one(self, view: float, text: str) -> Any:
        return super().one(view + 100 * self.rng.random(), text)


_made = count()


class Unseeded(Sound):
    """Another teacher each time it is made."""

    def __init__(self) -> None:
        self.offset = 200.0 * next(_made)

    def one(self, view: float, text: str) -> Any:
        return super().one(view + self.offset, text)


def test_a_sound_teacher_passes() -> None:
    told = check_teacher(Sound, synthetic_pictures(), TEXTS)
    assert told == Conformance(num_answers=6, num_with_masks=4)


BROKEN: list[tuple[Callable[[], Any], str]] = [
    (object, "lacks name, embedding_dim, mask_grid, encode_view, answer"),
    (having(answer=None), "lacks answer"),
    (having(name=""), "name is ''"),
    (having(embedding_dim=2.5), "embedding_dim is 2.5"),
    (having(mask_grid=lambda *_: (4, 6)), "expected a MaskGrid"),
    (having(mask_grid=lambda *_: MaskGrid(0, 6, (6.0, 4.0))), "positive integers"),
    (having(mask_grid=lambda *_: MaskGrid(4, 6, (6.0, -4.0))), "two positive numbers"),
    (having(mask_grid=lambda *_: MaskGrid(4, 6, (np.nan, 4.0))), "two positive numbers"),
    (having(mask_grid=lambda *_: MaskGrid(4, 6, cast(Any, (6.0,)))), "two positive numbers"),
    (having(mask_grid=lambda _, h, w: MaskGrid(4, 6, (w, h))), "not in pixels"),
    (having(encode_view=paints_on_the_image), "modified the image"),
    (having(answer=lambda self, view, texts: []), "expected a list of 3 answers, got 0"),
    (having(answer=lambda self, view, texts: tuple(texts)), "got a tuple"),
    (having(answer=lambda self, view, texts: ["yes"] * len(texts)), "not a TeacherAnswer"),
    (having(answer=lambda self, view, t: [self.one(view, "x")] * max(1, len(t))), "no query got 1"),
    (spoilt(text=3), "text is 3"),
    (spoilt(mask_logits=np.zeros((2, 6, 4), np.float32)), "mask_logits is (2, 6, 4)"),
    (spoilt(mask_logits=np.zeros((2, 4, 6))), "mask_logits is float64, expected float32"),
    (spoilt(mask_logits=np.full((2, 4, 6), np.inf, np.float32)), "not finite"),
    (spoilt(mask_logits=[0.0, 1.0]), "mask_logits is a list"),
    (spoilt(predicted_iou=np.zeros((2, 1), np.float32)), "predicted_iou is (2, 1)"),
    (spoilt(predicted_iou=np.full(2, 1.5, np.float32)), "expected values in [0, 1]"),
    (spoilt(seg_embeddings=np.zeros((2, 4), np.float32)), "seg_embeddings is (2, 4)"),
    (
        having(
            encode_view=forgets_the_view,
            answer=lambda self, view, texts: [self.one(self.last, text) for text in texts],
        ),
        "after other views were encoded",
    ),
    (having(answer=numbered), "when asked in another order"),
    (having(answer=fewer_in_company), "when each query is asked alone"),
    (Drawing, "changes by"),
    (Unseeded, "from a second teacher of the same config"),
]


@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_each_broken_promise_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConformanceError, match=re.escape(message)):
        check_teacher(make, synthetic_pictures(), TEXTS)


def test_without_pictures_or_with_a_query_twice_nothing_is_proven() -> None:
    for images, texts in (
        ([], TEXTS),
        (synthetic_pictures(), ()),
        (synthetic_pictures(), ("a", "a")),
    ):
        with pytest.raises(ValueError, match="at least one"):
            check_teacher(Sound, images, texts)


def test_the_oracle_conforms() -> None:
    errors = replace(EXACT, ragged=0.5, miss=0.3, confuse=0.3, token_noise=0.3, iou_noise=0.2)
    make = lambda: disc_teacher(errors)[0]  # noqa: E731 - a new one each time
    queries = ("the small chair", "the bed", "the toilet", "a chair or bed")
    told = check_teacher(make, [np.zeros((40, 60, 3), np.uint8)] * 2, queries)
    assert told.num_answers == 8 and 2 <= told.num_with_masks <= 6


@pytest.mark.parametrize(("name", "version"), [("lisa", "v1"), ("lisa_plus", "plus")])
@pytest.mark.parametrize("whole", [False, True])
def test_lisa_conforms(name: str, version: str, whole: bool) -> None:
    folder = GOLDEN / version
    section = {"weights": str(folder / "checkpoint"), "dtype": "float32", "whole_answer": whole}
    cfg = TeacherConfig.model_validate({"name": name, "lisa": section})
    images = [np.array(Image.open(folder / f"images/img{i}.png").convert("RGB")) for i in (0, 1)]
    told = check_teacher(lambda: make_lisa(cfg, "cpu"), images, ("the chair", "Is there a clock?"))
    assert told.num_with_masks >= 1


def check(*arguments: str) -> int:
    line = ("check-teacher", "--device", "cpu", "--class", "color_teacher:ColorTeacher")
    return main([*line, *arguments])


def test_the_documented_example_conforms(
    color_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("--query", "the red box", "--query", "red or blue", "--query", "a bed") == 0
    assert "conforms: 6 answers on 2 pictures, 4 with masks" in capsys.readouterr().out
    assert check("--option", "reach=60") == 0
    assert "no mask was seen" in capsys.readouterr().out


def test_the_documented_example_masks_the_colour(color_teacher: Path) -> None:
    cfg = TeacherConfig.model_validate({"class": "color_teacher:ColorTeacher"})
    made = make_custom(cfg, "cpu")
    image = np.zeros((9, 8, 3), np.uint8)
    image[:, 4:] = (200, 40, 40)
    (answer,) = made.answer(made.encode_view(image, "view"), ["the red box"])
    assert (answer.mask_logits > 0).tolist() == [[[False, True]] * 3]
    assert made.mask_grid(9, 8) == MaskGrid(3, 2, (2.0, 2.25))


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ("0.5, np.float32", "1.5, np.float32", 1, "does not conform: view0, query 'red'"),
        ("(image, image[", "(1 / 0, image[", 1, "raises ZeroDivisionError"),
        ('name = "color"', 'nam = "color"', 2, "lacks name"),
        ("class ColorTeacher", "class Other", 2, "has no 'ColorTeacher'"),
    ],
)
def test_a_spoilt_example_is_one_line_and_an_exit_code(
    color_teacher: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    code: int,
    message: str,
) -> None:
    source = color_teacher.read_text().replace("return image, image[", "return (image, image[")
    source = source.replace("::STRIDE].astype(np.float32)", "::STRIDE].astype(np.float32))")
    color_teacher.write_text(source.replace(old, new))
    assert check("--query", "red") == code
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and told.startswith("python -m pipeline ")


@pytest.mark.parametrize("bad", ["reach", "=3", "reach=[", "a-b=3"])
def test_a_malformed_option_is_refused(
    color_teacher: Path, capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    assert check("--option", bad) == 2
    assert "--option" in capsys.readouterr().err
