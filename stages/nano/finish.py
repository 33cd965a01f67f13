"""Stage: the trained network as a checkpoint folder, examined, with its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from data.progress import Progress, silent
from models.lisa.checkpoint import load_lisa, save_lisa
from models.lisa.images import ClipTransform
from models.lisa.questions import LisaSettings
from models.lisa.teacher import LisaTeacher
from models.lisa.tokenizer import LisaTokenizer
from models.lisa.trainee import CLIP_SIZE, NanoTrainee, nano_network
from stages.nano import exam, figures
from stages.nano.batches import COLOR_IDS, LABEL_IDS
from stages.nano.card import write_card
from stages.nano.configs import NanoConfig
from stages.nano.pictures import exam_pictures

TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "added_tokens.json")
_BILINEAR = 2


def run(
    folder: Path, trained: Path, cfg: NanoConfig, command: str, progress: Progress = silent
) -> None:
    """Fill ``folder`` with what ships: weights, tokenizer, ``figures.json`` and ``README.md``.

    ``trained`` holds ``trainee.pt`` and ``tokenizer/``; ``command`` is what the card says made
    all this.
    """
    export(folder, trained)
    settings = LisaSettings(use_start_end=True, question_form="auto")
    teacher = LisaTeacher(load_lisa(folder), settings, "lisa_nano")
    torch.set_num_threads(1)
    pictures = exam_pictures(cfg.exam, progress)
    results = exam.run(teacher, pictures, cfg.exam.questions, cfg.exam.seed, progress)
    told = {
        "summary": figures.summary(results),
        "tables": figures.tables(results),
        "cosines": figures.cosines(results),
    }
    content = json.dumps(_as_json(told), indent=1, allow_nan=False)
    (folder / "figures.json").write_text(content + "\n", encoding="utf-8")
    write_card(folder, told, cfg, command)


def export(folder: Path, trained: Path) -> None:
    """The network without what only training needed, in half precision."""
    tokenizer = LisaTokenizer.from_folder(trained / "tokenizer")
    trainee = NanoTrainee(nano_network(tokenizer.seg_id + 1), len(LABEL_IDS), len(COLOR_IDS))
    trainee.load_state_dict(torch.load(trained / "trainee.pt", weights_only=True))
    transform = ClipTransform((CLIP_SIZE, CLIP_SIZE), crop=None, resample=_BILINEAR)
    files = [trained / "tokenizer" / name for name in TOKENIZER_FILES]
    save_lisa(folder, trainee.network, files, transform)


def _as_json(told: Any) -> Any:
    """The same with null for figures that nothing was counted for: JSON knows no NaN."""
    if isinstance(told, dict):
        return {name: _as_json(value) for name, value in told.items()}
    return None if told != told else told
