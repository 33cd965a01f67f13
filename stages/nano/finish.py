"""Stage: export the trained LISA-nano as a checkpoint folder, evaluate it and write its card.

The evaluation's pictures have the camera and the size of the demo's. Each question is asked in the
words of the demo's training rooms and, for the same objects, in words held out from training. The
teacher is called by its public methods with greedy decoding; an answer without mask for an object
in view has IoU 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images import cells_to_pixels
from data.rooms.snapshots import Snapshots
from data.rooms.teacher_questions import PictureObjects, ViewQuery, demo_sentence, sample_view_query
from data.types import Array, Progress, silent
from models.lisa.checkpoint import load_lisa, save_lisa
from models.lisa.images import ClipTransform
from models.lisa.teacher import LisaSettings, LisaTeacher
from models.lisa.tokenizer import LisaTokenizer
from models.lisa.trainee import CLIP_SIZE, NanoTrainee, nano_network
from models.teacher import AnyTeacher, TeacherAnswer
from stages.evaluation.metrics import auc
from stages.nano import train as training
from stages.nano.batches import COLOR_IDS, LABEL_IDS
from stages.nano.configs import NanoConfig
from stages.nano.prepare import exam_pictures

_ASKED = ("name", "need", "color", "on", "all", "both")


@dataclass(frozen=True, eq=False)
class Result:
    """One evaluated answer.

    ``share`` is the share of the picture that the object covers, 0 if it is not in view. ``iou``
    and ``confidence``, the predicted IoU, are 0 without a mask; ``token`` is the [SEG] embedding
    or None.
    """

    query: ViewQuery
    held_out: bool
    share: float
    said_shown: bool
    named: bool
    iou: float
    confidence: float
    token: Array | None


def run_exam(
    teacher: AnyTeacher,
    pictures: Snapshots,
    questions: int,
    seed: int,
    progress: Progress = silent,
) -> list[Result]:
    """Ask ``questions`` per picture, each in training and in held-out words, and score answers."""
    rng = np.random.default_rng([seed, 7])
    even = dict.fromkeys((item.label for room in pictures.rooms for item in room), 1.0)
    results: list[Result] = []
    for index in range(len(pictures)):
        progress(index, len(pictures))
        image, ids = np.asarray(pictures.images[index]), np.asarray(pictures.object_ids[index])
        viewer = PictureObjects(ids, pictures.rooms[int(pictures.room_of[index])], even)
        drawn = list(_questions(viewer, rng, questions))
        texts = [demo_sentence(rng, query, held_out) for query, held_out in drawn]
        view = teacher.encode_view(image, f"picture {index}")
        grid = teacher.mask_grid(*image.shape[:2])
        answers = teacher.answer(view, texts)
        for (query, held_out), answer in zip(drawn, answers, strict=True):
            results.append(_score(query, held_out, answer, ids, grid.extent))
    progress(len(pictures), len(pictures))
    return results


def _questions(
    viewer: PictureObjects, rng: np.random.Generator, count: int
) -> Iterator[tuple[ViewQuery, bool]]:
    done = 0
    while done < count:
        query = sample_view_query(viewer, rng)
        if query.kind in _ASKED:
            done += 1
            yield query, False
            yield query, True


def _score(
    query: ViewQuery,
    held_out: bool,
    answer: TeacherAnswer,
    ids: Array,
    extent: tuple[float, float],
) -> Result:
    truth = np.isin(ids, query.targets)
    has_mask, iou, confidence, token = len(answer.mask_logits) > 0, 0.0, 0.0, None
    if has_mask:
        logits = cells_to_pixels(answer.mask_logits[:1], extent, (ids.shape[0], ids.shape[1]))
        drawn = logits[0] > 0
        iou = float((drawn & truth).sum() / max((drawn | truth).sum(), 1))
        confidence, token = float(answer.predicted_iou[0]), answer.seg_embeddings[0]
    named = answer.text.startswith(f"It is the {query.name},")
    share = float(truth.mean())
    return Result(query, held_out, share, has_mask, named, iou, confidence, token)


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
    """Summarise results by words, kind of question, label and share of the picture."""
    return {
        "words": _by(results, lambda r: "held out" if r.held_out else "seen"),
        "kind": _by(results, lambda r: r.query.kind),
        "label": _by([r for r in results if r.query.kind != "both"], lambda r: r.query.label),
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


_COLUMNS = {
    "mask_iou": "mask IoU",
    "presence": "presence",
    "true_positives": "true pos.",
    "true_negatives": "true neg.",
    "names": "names",
    "belief_auc": "belief AUC",
    "answers": "answers",
}
_TITLES = {
    "words": "By words",
    "kind": "By kind of question",
    "label": "By category",
    "size": "By share of the picture that the object covers",
}


def write_card(folder: Path, metrics: Mapping[str, Any], cfg: NanoConfig, command: str) -> None:
    """Write ``README.md`` of a checkpoint folder from its metrics.

    ``metrics`` has the keys "summary", "tables" and "cosines"; ``command`` is the command that
    trained the checkpoint.
    """
    pictures, train, exam = cfg.pictures, cfg.train, cfg.exam
    rooms = pictures.shards * pictures.rooms_per_shard
    steps = train.tower_steps + train.joint_steps + train.wording_steps
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    parts = [
        "# LISA-nano",
        "A LISA of a few million parameters that answers queries on pictures of MLLM-For3D's "
        "procedural rooms. It makes the demo honest: its masks are learnt, not read from labels. "
        "On photographs it is of no use.",
        "- **Network**: LISA's (Lai et al., CVPR 2024), in the layout of its published "
        "checkpoints: a CLIP tower, a Llama and SAM, all small, trained from nothing. CLIP sees "
        "the picture squashed, not cropped.",
        f"- **Files**: half precision, {size:.1f} MB.",
        f"- **Data**: {rooms * pictures.views:,} rendered pictures of {rooms:,} rooms, of seeds "
        "that no demo room can have; sentences of `data/rooms/teacher_questions.py` and "
        "`loose_sentences.py`. No photograph, no text and no weights of others, so no licence of "
        "others: MIT, as the project.",
        f"- **Training**: {steps:,} steps of {training.PROCESSES * train.batch} pictures with "
        f"{train.queries} questions each, on CPU. Everything here, this card included, was made "
        f"by\n\n      {command}",
        "- **Answers**: `It is the red chair, [SEG].` or `It is the red chair, not in this "
        "view.` Questions about places and sizes (`the chair closest to the desk`) are answered "
        "with all objects of the kind; which one is meant is left to 3D.",
        "## Figures",
        f"On {exam.rooms} rooms of the demo's generator, {exam.views} pictures each, with seeds "
        "used nowhere else; every question asked in the words of training rooms and in words "
        "kept from all training. Greedy decoding. Mask IoU is over objects that cover at least "
        "0.4 % of the picture, 0 where the answer has no mask; absent are objects of which no "
        "pixel shows. Presence is the mean of the rates of true positives and true negatives. "
        "Belief AUC: how well the predicted IoU (0 without a mask) tells pictures that show the "
        "object from those that do not.",
        _table({"all": metrics["summary"]}),
    ]
    for name, title in _TITLES.items():
        parts += [f"### {title}", _table(metrics["tables"][name])]
    parts += ["### Cosines of [SEG] embeddings", "Of questions that name a colour."]
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in metrics["cosines"].items())
    parts.append(f"| pair | mean cosine |\n|---|---|\n{rows}")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| | {' | '.join(_COLUMNS.values())} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, figures in rows.items():
        cells = [
            f"{figures[key]:.0f}" if key == "answers" else _cell(figures[key]) for key in _COLUMNS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "added_tokens.json")
_BILINEAR = 2


def run(
    folder: Path, trained: Path, cfg: NanoConfig, command: str, progress: Progress = silent
) -> None:
    """Write the checkpoint ``folder``: weights, tokenizer, ``figures.json`` and ``README.md``.

    ``trained`` holds ``trainee.pt`` and ``tokenizer/``; ``command`` is the command that the card
    names.
    """
    export(folder, trained)
    settings = LisaSettings(use_start_end=True, question_form="auto")
    teacher = LisaTeacher(load_lisa(folder), settings, "lisa_nano")
    torch.set_num_threads(1)
    pictures = exam_pictures(cfg.exam, progress)
    results = run_exam(teacher, pictures, cfg.exam.questions, cfg.exam.seed, progress)
    metrics = {
        "summary": summary(results),
        "tables": tables(results),
        "cosines": cosines(results),
    }
    content = json.dumps(_as_json(metrics), indent=1, allow_nan=False)
    (folder / "figures.json").write_text(content + "\n", encoding="utf-8")
    write_card(folder, metrics, cfg, command)


def export(folder: Path, trained: Path) -> None:
    """Write the network without the heads of training, in half precision."""
    tokenizer = LisaTokenizer.from_folder(trained / "tokenizer")
    trainee = NanoTrainee(nano_network(tokenizer.seg_id + 1), len(LABEL_IDS), len(COLOR_IDS))
    trainee.load_state_dict(torch.load(trained / "trainee.pt", weights_only=True))
    transform = ClipTransform((CLIP_SIZE, CLIP_SIZE), crop=None, resample=_BILINEAR)
    files = [trained / "tokenizer" / name for name in TOKENIZER_FILES]
    save_lisa(folder, trainee.network, files, transform)


def _as_json(metrics: Any) -> Any:
    """Replace NaN, the metric of an empty group, by None, because JSON has no NaN."""
    if isinstance(metrics, dict):
        return {name: _as_json(value) for name, value in metrics.items()}
    return None if metrics != metrics else metrics
