"""LISA-nano's model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.nano.configs import NanoConfig
from stages.nano.train import PROCESSES

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


def write_card(folder: Path, told: Mapping[str, Any], cfg: NanoConfig, command: str) -> None:
    """Write ``README.md`` of a checkpoint folder from its figures."""
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
        "that no demo room can have; sentences of `data/rooms/sentences.py` and "
        "`loose_sentences.py`. No photograph, no text and no weights of others, so no licence of "
        "others: MIT, as the project.",
        f"- **Training**: {steps:,} steps of {PROCESSES * train.batch} pictures with "
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
        _table({"all": told["summary"]}),
    ]
    for name, title in _TITLES.items():
        parts += [f"### {title}", _table(told["tables"][name])]
    parts += ["### Cosines of [SEG] embeddings", "Of questions that name a colour."]
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in told["cosines"].items())
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
