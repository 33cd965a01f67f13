"""Which questions a room is asked, in what words, and as what records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.rooms.catalog import STRUCTURE
from data.rooms.facts import Fact
from data.rooms.queries import Inquirer, Question
from data.rooms.wordings import ROOM_WORDS, Wording

TASKS = ("referring", "implicit", "spatial", "multiple", "absent")
WANTED = {"referring": 4, "implicit": 4, "spatial": 3, "multiple": 2, "absent": 3}
NO_ANSWER = "none"
"""What is right to say where nothing answers a question."""
_HELD_OUT_RATE = 0.5


def ask(
    scene_id: str,
    split: str,
    facts: Sequence[Fact],
    view_names: Sequence[str],
    num_pixels: int,
    seed: Sequence[int],
    times: int = 1,
    extra: Extra | None = None,
) -> list[dict[str, object]]:
    """Records in Instruct3D's form plus ``task``: all five tasks where the room allows it.

    ``extra`` asks for questions with ``answers`` and for searches besides.

    ``object_id`` holds ``objectId`` numbers; ``image`` names the view that shows the targets
    best. Held-out wordings are for validation rooms alone: those of other splits never use one.
    With ``times`` above 1 there are up to that many times as many, as far as questions go.
    """
    rng = np.random.default_rng([*seed, 5])
    inquirer = Inquirer(facts, num_pixels, rng)
    kinds: dict[str, Callable[[], Iterator[Question]]] = {
        "referring": inquirer.referring,
        "implicit": inquirer.implicit,
        "spatial": inquirer.spatial,
        "multiple": inquirer.multiple,
        "absent": inquirer.absent,
    }
    writer = _Writer(scene_id, split == "val", inquirer, view_names, rng)
    records: list[dict[str, object]] = []
    for task in TASKS:
        questions = [q for q in kinds[task]() if inquirer.shown(q.targets)]
        for question in _varied(questions, times * WANTED[task], rng):
            records.append(writer.record(question, task))
    if extra is not None:
        records += _extra_records(extra, inquirer, writer, rng)
    return records


@dataclass(frozen=True)
class Extra:
    """Further records of a room of some ``kind``: ``questions`` with answers, and ``searches``."""

    kind: str
    questions: int
    searches: int


class _Writer:
    """Puts questions into words; those of validation rooms are held out half of the time."""

    def __init__(
        self,
        scene_id: str,
        is_val: bool,
        inquirer: Inquirer,
        view_names: Sequence[str],
        rng: np.random.Generator,
    ) -> None:
        self._scene_id, self._is_val, self._inquirer = scene_id, is_val, inquirer
        self._view_names, self._rng = view_names, rng

    def words(self, wording: Wording) -> str:
        """One of a wording's templates."""
        words = wording.train
        if self._is_val and self._rng.random() < _HELD_OUT_RATE:
            words = wording.held_out
        return words[int(self._rng.integers(len(words)))]

    def record(self, question: Question, task: str) -> dict[str, object]:
        """A question as a record; ``image`` is the view that shows its targets best."""
        text = self.words(question.wording).format(**dict(question.slots))
        facts, targets = self._inquirer.facts, question.targets
        pixels = sum((facts[t].views for t in targets), np.zeros(1))
        any_view = self._rng.integers
        view = int(np.argmax(pixels)) if targets else int(any_view(len(self._view_names)))
        return {
            "scene_id": self._scene_id,
            "object_id": list(targets),
            "object_name": question.name,
            "image": self._view_names[view],
            "description": text,
            "task": task,
        }


def _extra_records(
    extra: Extra, inquirer: Inquirer, writer: _Writer, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    questions = [q for q in inquirer.questions() if inquirer.shown(q.targets)]
    for question in _varied(questions, extra.questions, rng):
        answer = question.name if question.targets else NO_ANSWER
        yield {**writer.record(question, "qa"), "answers": [answer]}
    found = [q for q in (*inquirer.referring(), *inquirer.implicit()) if inquirer.shown(q.targets)]
    for question in _varied(found, extra.searches, rng):
        record = writer.record(question, "search")
        room = writer.words(ROOM_WORDS[extra.kind])
        yield {**record, "description": f"in {room}, {record['description']}"}


def _varied(questions: list[Question], count: int, rng: np.random.Generator) -> list[Question]:
    """Some of the questions, in random order, repeating names and wordings as late as possible."""
    left = [questions[int(i)] for i in rng.permutation(len(questions))]
    chosen: list[Question] = []
    while left and len(chosen) < count:
        worth = [
            2 * sum(q.name == c.name for c in chosen)
            + sum(q.wording == c.wording for c in chosen)
            + (q.name in STRUCTURE)
            for q in left
        ]
        chosen.append(left.pop(int(np.argmin(worth))))
    return chosen
