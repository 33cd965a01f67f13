"""Stage: export the trained LISA-nano as a checkpoint folder, examine it and write its card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.queries.vocabulary import WORDS_FILE, vocabulary
from data.rooms.snapshots import Snapshots
from data.rooms.teacher_questions import UNKNOWN_NAME
from data.rooms.teacher_sentences import load_exam
from data.types import Progress, silent
from models.lisa.checkpoint import REFUSAL_KEY, Refusal, load_lisa, save_lisa
from models.lisa.images import ClipTransform
from models.lisa.teacher import LisaSettings, LisaTeacher, LisaWords
from models.lisa.tokenizer import LisaTokenizer
from models.lisa.trainee import CLIP_SIZE, NanoTrainee, nano_network
from stages.nano import train as training
from stages.nano.batches import COLOR_IDS, LABEL_IDS
from stages.nano.configs import NanoConfig
from stages.nano.exam import cosines, run_exam, summary, tables
from stages.nano.prepare import TOKENIZER_FILES, exam_pictures, known_sentences

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
    "pictures": "By pictures",
    "strangers": "Strangers, to which no room has an answer",
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
    begun = f"begun with the weights of `{train.start}`" if train.start else "from random weights"
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
        f"that no demo room can have, {100 * pictures.scanned_share:.0f} % of them with small "
        "things lying about and taken by a moving camera of changing exposure; sentences of "
        "`data/rooms/teacher_sentences.py`. No photograph, no text and no weights of others, so no "
        "licence of others: MIT, as the project.",
        f"- **Training**: {steps:,} steps of {training.PROCESSES * train.batch} pictures with "
        f"{train.queries} questions each, of half as many with twice the questions in the last "
        f"stage ({train.wording_steps:,} steps), {begun}, on CPU. Everything here, this card "
        f"included, was made by\n\n      {command}",
        "- **Answers**: `It is the red chair, [SEG].` or `It is the red chair, not in this "
        f"view.`; for what it does not know `It is the {UNKNOWN_NAME}, not in this view.` "
        "Questions about places and sizes (`the chair closest to the desk`) are answered "
        "with all objects of the kind; which one is meant is left to 3D.",
        "## Figures",
        f"On {exam.rooms} rooms of the demo's generator, {exam.views} pictures each, with seeds "
        "used nowhere else, half of them scanned; every question asked in the words of training "
        "rooms and in words kept from all training, and where it names a kind alone, in a "
        "sentence by another hand. Strangers are sentences by that hand to which no room has an "
        "answer (`data/rooms/exam.yaml`); only their own tables hold them. Greedy decoding. Mask "
        "IoU is over objects that cover at least "
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


_BILINEAR = 2
_PICTURES = ("clean", "scanned")
_SETTINGS = LisaSettings(use_start_end=True, question_form="auto")
_MEAN_OF = 20


def run(
    folder: Path, trained: Path, cfg: NanoConfig, command: str, progress: Progress = silent
) -> None:
    """Write the checkpoint ``folder``: weights, tokenizer, ``figures.json`` and ``README.md``.

    ``trained`` holds ``trainee.pt`` and ``tokenizer/``; ``command`` is the command that the card
    names.
    """
    export(folder, trained)
    torch.set_num_threads(1)
    exam, results = cfg.exam, []
    rooms = {kind: exam_pictures(exam, kind == "scanned", progress) for kind in _PICTURES}
    least = refusal_threshold(folder, rooms.values(), exam.kept)
    write_refusal(folder, least)
    teacher = LisaTeacher(load_lisa(folder), _SETTINGS, "lisa_nano")
    for kind, pictures in rooms.items():
        asked = exam.questions, exam.strangers, exam.seed
        results += run_exam(teacher, pictures, kind, *asked, progress)
    metrics = {
        "summary": summary([result for result in results if not result.group]),
        "tables": tables(results),
        "cosines": cosines(results),
    }
    content = json.dumps(_as_json(metrics), indent=1, allow_nan=False)
    (folder / "figures.json").write_text(content + "\n", encoding="utf-8")
    write_card(folder, metrics, cfg, command)


def export(folder: Path, trained: Path) -> None:
    """Write the network without the heads of training, in half precision, and ``WORDS_FILE``."""
    tokenizer = LisaTokenizer.from_folder(trained / "tokenizer")
    trainee = NanoTrainee(nano_network(tokenizer.seg_id + 1), len(LABEL_IDS), len(COLOR_IDS))
    trainee.load_state_dict(torch.load(trained / "trainee.pt", weights_only=True))
    transform = ClipTransform((CLIP_SIZE, CLIP_SIZE), crop=None, resample=_BILINEAR)
    files = [trained / "tokenizer" / name for name in TOKENIZER_FILES]
    save_lisa(folder, trainee.network, files, transform)
    words = vocabulary(known_sentences())
    (folder / WORDS_FILE).write_text("\n".join(words) + "\n", encoding="utf-8")


def write_refusal(folder: Path, least: float) -> None:
    """Write into ``config.json`` that strangers are refused from the probability ``least`` on."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    refusal = {"words": UNKNOWN_NAME, "least": least}
    content = json.dumps({**config, REFUSAL_KEY: refusal}, indent=2)
    path.write_text(content + "\n", encoding="utf-8")


def refusal_threshold(folder: Path, pictures: Iterable[Snapshots], kept: float) -> float:
    """Choose the probability from which on a checkpoint refuses a sentence.

    The share ``kept`` of the tuning sentences about things that rooms hold is not refused beside
    the mean of some ``pictures``. No sentence of the exam, and none that no room answers, is used.
    """
    plain = replace(load_lisa(folder), refusal=Refusal(UNKNOWN_NAME, 0.5))
    words = LisaWords(plain, _SETTINGS)
    images = [
        np.asarray(image)
        for each in pictures
        for image in each.images[:: max(1, len(each.images) // _MEAN_OF)]
    ]
    mean = torch.stack([words.image_tokens(image) for image in images]).mean(0)
    texts = [text for said in load_exam("tuning").present.values() for text in said]
    known = words.encode_and_judge(texts, mean)[1]  # With even odds, 1 minus the probability.
    return float(np.quantile(1 - known, kept))


def _as_json(metrics: Any) -> Any:
    """Replace NaN, the metric of an empty group, by None, because JSON has no NaN."""
    if isinstance(metrics, dict):
        return {name: _as_json(value) for name, value in metrics.items()}
    return None if metrics != metrics else metrics
