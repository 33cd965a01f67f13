"""How LISA-nano is marked: teachers of known worth get the marks they deserve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rooms.catalog import LABELS
from data.rooms.snapshots import Snapshots
from data.rooms.teacher_questions import VISIBLE_SHARE, ViewQuery
from data.rooms.teacher_sentences import ExamSentences, demo_sentence
from data.types import Array
from models.teacher import MaskGrid, TeacherAnswer
from stages.evaluation.metrics import auc
from stages.nano import exam
from stages.nano.exam import ANOTHER_HAND, HELD_OUT, SEEN, Result
from tests.support.worlds.nano_world import office

QUESTIONS = 12
STRANGERS = 3
TOKEN = 3
STRANGER = ViewQuery("stranger", "", ())
NOTHING = ("zebra", "moon", "hello?")
SENTENCES = ExamSentences(
    {label: (f"hand {label}",) for label in LABELS}, {"things": NOTHING[:2], "talk": NOTHING[2:]}
)


@dataclass(eq=False)
class Asked:
    """What the exam asked, in order: the texts are numbers."""

    queries: list[ViewQuery]
    held_out: list[bool]

    def say(self, rng: np.random.Generator, query: ViewQuery, held_out: bool) -> str:
        assert demo_sentence(rng, query, held_out)
        self.queries.append(query)
        self.held_out.append(held_out)
        return str(len(self.queries) - 1)


@dataclass(eq=False)
class Knowing:
    """A teacher that sees object ids; its masks have a cell per pixel.

    ``always`` draws a mask whatever is asked; ``flawed`` shifts every mask by a column.
    """

    asked: Asked
    pictures: Snapshots
    always: bool = False
    flawed: bool = False
    name: str = "knowing"
    embedding_dim: int = TOKEN

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        return MaskGrid(height, width, (float(width), float(height)))

    def encode_view(self, image: Array, view_id: str) -> Array:
        (row,) = [i for i, one in enumerate(self.pictures.images) if np.array_equal(one, image)]
        ids: Array = self.pictures.object_ids[row]
        return ids

    def answer(self, view: Any, texts: Sequence[str]) -> list[TeacherAnswer]:
        answers, query = [], STRANGER
        for text in texts:
            if text.isdigit():
                query = self.asked.queries[int(text)]
            # In the words of another hand the question before is asked once more.
            answers.append(self._one(view, STRANGER if text in NOTHING else query))
        return answers

    def _one(self, ids: Array, query: ViewQuery) -> TeacherAnswer:
        said = f"It is the {query.name}, "
        if not (query.targets or self.always):
            grid = self.mask_grid(*ids.shape)
            return TeacherAnswer.without_mask(f"{said}not in this view.", grid, TOKEN)
        inside = np.isin(ids, query.targets)
        if self.flawed:
            inside = np.roll(inside, 1, axis=1)
        logits = np.where(inside, 5, -5).astype(np.float32)
        token = np.eye(TOKEN, dtype=np.float32)[[len(query.label) % TOKEN]]
        return TeacherAnswer(f"{said}[SEG].", logits[None], np.full(1, 0.8, np.float32), token)


def examined(
    monkeypatch: pytest.MonkeyPatch, always: bool = False, flawed: bool = False
) -> tuple[list[Result], Asked]:
    asked = Asked([], [])
    monkeypatch.setattr(exam, "demo_sentence", asked.say)
    monkeypatch.setattr(exam, "load_exam", lambda: SENTENCES)
    knowing = Knowing(asked, office(), always, flawed)
    return exam.run_exam(knowing, office(), "clean", QUESTIONS, STRANGERS, 4), asked


def test_who_knows_all_gets_full_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    results, asked = examined(monkeypatch)
    strange = [result for result in results if result.group]
    assert [r.group for r in strange] == ["things", "talk", "things"] * len(office())
    assert not any(r.said_shown for r in strange) and all(r.named for r in strange)
    spoken = [result for result in results if result.words == ANOTHER_HAND and not result.group]
    assert spoken and {r.query.kind for r in spoken} == {"name", "need"}
    results = [result for result in results if result.words != ANOTHER_HAND]
    assert len(results) == 2 * QUESTIONS * len(office())
    found = exam.summary(results)
    for name in ("mask_iou", "mask_iou_where_given", "presence", "names", "belief_auc"):
        assert found[name] == 1, name
    assert 0 < found["shown"] < found["answers"] == len(results)
    assert all(result.share >= VISIBLE_SHARE or result.share == 0 for result in results)
    # The same question twice, in seen and then in held-out words.
    assert asked.queries[::2] == asked.queries[1::2]
    assert asked.held_out == [False, True] * (len(results) // 2)
    assert [result.words == HELD_OUT for result in results] == asked.held_out
    assert [result.query for result in results] == asked.queries


def test_who_always_sees_something_is_right_half_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = exam.summary(examined(monkeypatch, always=True)[0])
    assert (found["true_positives"], found["true_negatives"], found["presence"]) == (1, 0, 0.5)
    assert found["belief_auc"] == 0.5  # All have the same confidence.
    assert found["mask_iou"] == 1


def test_masks_are_marked_by_their_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    results, _ = examined(monkeypatch, flawed=True)
    pictures = office()
    results = [result for result in results if result.words != ANOTHER_HAND]
    for number, result in enumerate(results):
        inside = np.isin(pictures.object_ids[number // (2 * QUESTIONS)], result.query.targets)
        moved = np.roll(inside, 1, axis=1)
        assert result.share == pytest.approx(inside.mean())
        if inside.any():
            assert result.iou == pytest.approx((inside & moved).sum() / (inside | moved).sum())
        else:
            assert (result.iou, result.confidence, result.token) == (0, 0, None)


def test_wrong_names_and_missing_masks_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Knowing):
        def _one(self, ids: Array, query: ViewQuery) -> TeacherAnswer:
            other = replace(query, label="wall clock" if query.label == "door" else "door")
            return super()._one(ids, replace(other, targets=()))

    asked = Asked([], [])
    monkeypatch.setattr(exam, "demo_sentence", asked.say)
    monkeypatch.setattr(exam, "load_exam", lambda: SENTENCES)
    found = exam.summary(exam.run_exam(Silent(asked, office()), office(), "clean", QUESTIONS, 0, 4))
    assert (found["mask_iou"], found["true_positives"], found["true_negatives"]) == (0, 0, 1)
    things = sum(query.name.startswith("things on") for query in asked.queries)
    assert things == 0 and found["names"] == 0
    assert math.isnan(found["mask_iou_where_given"]) and found["belief_auc"] == 0.5


@given(st.lists(st.tuples(st.sampled_from((0.0, 0.1, 0.5, 0.9)), st.booleans()), max_size=20))
def test_auc_counts_pairs(marked: list[tuple[float, bool]]) -> None:
    yes = [score for score, wanted in marked if wanted]
    no = [score for score, wanted in marked if not wanted]
    found = auc([score for score, _ in marked], [wanted for _, wanted in marked])
    if not yes or not no:
        assert math.isnan(found)
        return
    won = sum((a > b) + 0.5 * (a == b) for a in yes for b in no)
    assert found == pytest.approx(won / (len(yes) * len(no)))


def marked(
    share: float,
    said: bool,
    iou: float = 0.0,
    confidence: float = 0.0,
    label: str = "bed",
    kind: str = "name",
    color: str = "",
    token: Sequence[float] | None = None,
    words: str = SEEN,
    group: str = "",
) -> Result:
    query = ViewQuery(kind, label, (0,) if share else (), color)
    vector = None if token is None else np.array(token, np.float32)
    pictures = "scanned" if share > 0.1 else "clean"
    return Result(query, words, group, pictures, share, said, True, iou, confidence, vector)


def test_figures_by_hand() -> None:
    results = [
        marked(0.005, True, iou=0.8, confidence=0.9),
        marked(0.02, True, iou=0.4, confidence=0.3, label="sofa", words=HELD_OUT),
        marked(0.5, False, label="sofa"),
        marked(0, True, confidence=0.5, kind="color"),
        marked(0, False, label="sofa", kind="both"),
    ]
    found = exam.summary(results)
    expected = {
        "answers": 5,
        "shown": 3,
        "mask_iou": 0.4,
        "mask_iou_where_given": 0.6,
        "true_positives": 2 / 3,
        "true_negatives": 0.5,
        "presence": 7 / 12,
        "names": 1,
        "belief_auc": 3.5 / 6,  # 0.9 beats both, 0.3 one, 0 ties with one.
    }
    assert found == pytest.approx(expected)
    by = exam.tables(results)
    assert {name: rows["answers"] for name, rows in by["words"].items()} == {
        "seen": 4,
        "held out": 1,
    }
    assert by["pictures"]["scanned"]["shown"] == 1 and by["pictures"]["clean"]["shown"] == 2
    assert by["kind"]["name"]["mask_iou"] == pytest.approx(0.4)
    assert by["label"]["sofa"]["answers"] == 2  # "bed and sofa" is of no one label.
    assert by["size"]["0 to 1 %"]["mask_iou"] == pytest.approx(0.8)
    assert by["size"]["10 to 100 %"]["mask_iou"] == 0
    assert set(by["size"]) == {"0 to 1 %", "1 to 3 %", "10 to 100 %"}
    strangers = [marked(0, said, label="", kind="stranger", group="talk") for said in (True, False)]
    by = exam.tables([*results, *strangers])
    assert by["strangers"]["talk"]["true_negatives"] == 0.5
    assert by["words"]["seen"]["answers"] == 4 and by["kind"]["stranger"]["answers"] == 2
    assert exam.tables([marked(1.0, True, iou=0.5)])["size"]["10 to 100 %"]["answers"] == 1


def test_cosines_by_hand() -> None:
    def told(label: str, color: str, *token: float) -> Result:
        return marked(0.1, True, label=label, kind="color", color=color, token=token)

    results = [
        told("bed", "red", 1, 0),
        told("bed", "red", 0, 3),
        told("bed", "blue", 0, 2),
        told("sofa", "red", -1, 0),
        told("sofa", "green", 1, 1),
        marked(0.1, True, token=(0, -9)),  # No colour was asked for.
        marked(0, False, color="red", kind="color"),
    ]
    found = exam.cosines(results)
    half = 0.5**0.5
    assert found == pytest.approx(
        {
            "same label, same colour": 0,
            "same label, other colour": (0 + 1 - half) / 3,
            "other label, same colour": -0.5,
            "other label, other colour": (half + half + half + 0) / 4,
        }
    )
    assert all(math.isnan(value) for value in exam.cosines(results[5:]).values())
