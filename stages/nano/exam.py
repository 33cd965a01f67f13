"""The exam of LISA-nano: ask it about pictures of rooms that nobody else uses, and mark it.

The pictures have the camera and the size of the demo's; half of the rooms are scanned. Each
question is asked in the words of the demo's training rooms and, for the same objects, in words
held out from training, and where it names a kind alone, in a sentence by another hand. Strangers
are sentences to which no room has an answer, by that hand, too (``data/rooms/exam.yaml``, written
apart from all training). The teacher is called by its public methods with greedy decoding; an
answer without mask for an object in view has IoU 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from typing import NamedTuple

import numpy as np

from data.images import cells_to_pixels
from data.rooms.snapshots import Snapshots
from data.rooms.teacher_questions import PictureObjects, ViewQuery, sample_view_query
from data.rooms.teacher_sentences import demo_sentence, load_exam, pick
from data.types import Array, Progress, silent
from models.teacher import AnyTeacher, TeacherAnswer
from stages.evaluation.metrics import auc

_ASKED = ("name", "need", "color", "on", "all", "both")
_BY_ANOTHER_HAND = ("name", "need")
SEEN, HELD_OUT, ANOTHER_HAND = "seen", "held out", "another hand"


@dataclass(frozen=True, eq=False)
class Result:
    """One evaluated answer.

    ``words`` are ``SEEN``, ``HELD_OUT`` or ``ANOTHER_HAND``; ``group`` is that of a stranger, else
    ""; ``pictures`` are "clean" or "scanned". ``share`` is the share of the picture that the object
    covers, 0 if it is not in view. ``iou`` and ``confidence``, the predicted IoU, are 0 without a
    mask; ``token`` is the [SEG] embedding or None.
    """

    query: ViewQuery
    words: str
    group: str
    pictures: str
    share: float
    said_shown: bool
    named: bool
    iou: float
    confidence: float
    token: Array | None


class Question(NamedTuple):
    """A query in words; see ``Result``."""

    query: ViewQuery
    text: str
    words: str
    group: str = ""


def run_exam(
    teacher: AnyTeacher,
    pictures: Snapshots,
    kind: str,
    questions: int,
    strangers: int,
    seed: int,
    progress: Progress = silent,
) -> list[Result]:
    """Ask ``questions`` and ``strangers`` per picture and score the answers.

    ``kind`` names the pictures in the results.
    """
    rng = np.random.default_rng([seed, 7])
    unknown = strangers_in_turn()
    even = dict.fromkeys((item.label for room in pictures.rooms for item in room), 1.0)
    results: list[Result] = []
    for index in range(len(pictures)):
        progress(index, len(pictures))
        image, ids = np.asarray(pictures.images[index]), np.asarray(pictures.object_ids[index])
        viewer = PictureObjects(ids, pictures.rooms[int(pictures.room_of[index])], even)
        asked = [*_questions(viewer, rng, questions), *islice(unknown, strangers)]
        view = teacher.encode_view(image, f"picture {index}")
        extent = teacher.mask_grid(*image.shape[:2]).extent
        answers = teacher.answer(view, [question.text for question in asked])
        for question, answer in zip(asked, answers, strict=True):
            results.append(_score(question, kind, answer, ids, extent))
    progress(len(pictures), len(pictures))
    return results


def _questions(viewer: PictureObjects, rng: np.random.Generator, count: int) -> Iterator[Question]:
    """Sample ``count`` queries and yield each in all words that there are for it."""
    present, done = load_exam().present, 0
    while done < count:
        query = sample_view_query(viewer, rng)
        if query.kind not in _ASKED:
            continue
        done += 1
        yield Question(query, demo_sentence(rng, query, False), SEEN)
        yield Question(query, demo_sentence(rng, query, True), HELD_OUT)
        if query.kind in _BY_ANOTHER_HAND and query.label in present:
            yield Question(query, pick(rng, present[query.label]), ANOTHER_HAND)


def strangers_in_turn() -> Iterator[Question]:
    """Yield the exam's strangers over and over, each group in turn."""
    groups = load_exam().nothing
    return cycle(
        Question(ViewQuery("stranger", "", ()), text, ANOTHER_HAND, group)
        for row in zip_longest(*groups.values())
        for group, text in zip(groups, row)
        if text is not None
    )


def _score(
    question: Question,
    pictures: str,
    answer: TeacherAnswer,
    ids: Array,
    extent: tuple[float, float],
) -> Result:
    query, _, words, group = question
    truth = np.isin(ids, query.targets)
    has_mask, iou, confidence, token = len(answer.mask_logits) > 0, 0.0, 0.0, None
    if has_mask:
        logits = cells_to_pixels(answer.mask_logits[:1], extent, (ids.shape[0], ids.shape[1]))
        drawn = logits[0] > 0
        iou = float((drawn & truth).sum() / max((drawn | truth).sum(), 1))
        confidence, token = float(answer.predicted_iou[0]), answer.seg_embeddings[0]
    named = answer.text.startswith(f"It is the {query.name},")
    share = float(truth.mean())
    return Result(query, words, group, pictures, share, has_mask, named, iou, confidence, token)


Figures = dict[str, float]
SIZES = ((0.0, 0.01), (0.01, 0.03), (0.03, 0.1), (0.1, 1.0))


def summary(results: Sequence[Result]) -> Figures:
    """Summarise results: mask IoU of objects in view, presence, names, AUC of the predicted IoU.

    ``presence`` is the mean of the rates of true positives and true negatives; ``belief_auc`` is
    the AUC of the predicted IoU for objects in view against others.
    """
    shown = [r for r in results if r.share > 0]
    absent = [r for r in results if r.share == 0]
    hits, refusals = _mean(r.said_shown for r in shown), _mean(not r.said_shown for r in absent)
    return {
        "answers": float(len(results)),
        "shown": float(len(shown)),
        "mask_iou": _mean(r.iou for r in shown),
        "mask_iou_where_given": _mean(r.iou for r in shown if r.said_shown),
        "presence": (hits + refusals) / 2,
        "true_positives": hits,
        "true_negatives": refusals,
        "names": _mean(r.named for r in results),
        "belief_auc": auc([r.confidence for r in results], [r.share > 0 for r in results]),
    }


def tables(results: Sequence[Result]) -> dict[str, dict[str, Figures]]:
    """Summarise results by words, pictures, kind of question, label, size and strangers."""
    known = [r for r in results if r.query.label]
    return {
        "words": _by(known, lambda r: r.words),
        "pictures": _by(known, lambda r: r.pictures),
        "kind": _by(results, lambda r: r.query.kind),
        "strangers": _by([r for r in results if r.group], lambda r: r.group),
        "label": _by([r for r in known if r.query.kind != "both"], lambda r: r.query.label),
        "size": _by([r for r in results if r.share > 0], _size),
    }


def cosines(results: Sequence[Result], most: int = 3000) -> Figures:
    """Return mean cosines of [SEG] embeddings by equal or different label and colour.

    At most ``most`` answers with a mask to questions with a colour are compared.
    """
    colored = [r for r in results if r.token is not None and r.query.color]
    tokens = (
        np.stack([np.asarray(r.token) for r in colored][:most]) if colored else np.zeros((0, 1))
    )
    labels = np.array([r.query.label for r in colored[:most]])
    colors = np.array([r.query.color for r in colored[:most]])
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-9)
    cosine = unit @ unit.T
    pair = ~np.eye(len(unit), dtype=bool)
    label, color = labels[:, None] == labels, colors[:, None] == colors
    return {
        "same label, same colour": _mean(cosine[pair & label & color]),
        "same label, other colour": _mean(cosine[pair & label & ~color]),
        "other label, same colour": _mean(cosine[pair & ~label & color]),
        "other label, other colour": _mean(cosine[pair & ~label & ~color]),
    }


def _by(results: Sequence[Result], key: Callable[[Result], str]) -> dict[str, Figures]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return {name: summary(groups[name]) for name in sorted(groups)}


def _size(result: Result) -> str:
    low, high = next((a, b) for a, b in SIZES if a <= result.share < b or b == 1.0)
    return f"{100 * low:g} to {100 * high:g} %"


def _mean(values: Iterable[float]) -> float:
    numbers = np.asarray(list(values), float)
    return float(numbers.mean()) if len(numbers) else float("nan")
