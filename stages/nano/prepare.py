"""Stages before LISA-nano's training: render its pictures and train its tokenizer.

The tokenizer is SentencePiece's byte-pair encoding with byte fallback, as in Llama: unknown words
are split into pieces, unknown characters into bytes. Its folder has the files of the published
checkpoints, so that ``LisaTokenizer`` reads both.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from data.rooms import teacher_sentences
from data.rooms.ids import room_kind
from data.rooms.snapshots import Snapshots, demo_pictures, join, small_pictures, write_snapshots
from data.rooms.teacher_questions import COLORS, QUERY_LABELS
from data.rooms.wordings import plural
from data.types import Progress, silent
from models.lisa.prompts import build_prompt, question_of
from models.lisa.tokenizer import LisaTokenizer
from stages.nano.configs import NanoExamConfig, NanoPicturesConfig

# Second parts of seeds; rooms of the demo have other ones (``data.rooms.ids``).
_TRAINING, _EXAM = 2, 3
_DEMO_SPACING = 0.05


def run_shard(
    folder: Path, shard: int, cfg: NanoPicturesConfig, progress: Progress = silent
) -> None:
    """Write one shard of training pictures, which depends on (cfg, shard) alone."""
    parts: list[Snapshots] = []
    for index in range(shard * cfg.rooms_per_shard, (shard + 1) * cfg.rooms_per_shard):
        progress(len(parts), cfg.rooms_per_shard)
        seed = (cfg.seed, _TRAINING, index)
        scanned = np.random.default_rng([*seed, 13]).random() < cfg.scanned_share
        sizes = cfg.views, cfg.vertex_spacing, cfg.oversampling
        parts.append(small_pictures(seed, room_kind(index), *sizes, scanned))
    write_snapshots(folder, join(parts))


def exam_pictures(cfg: NanoExamConfig, scanned: bool, progress: Progress = silent) -> Snapshots:
    """Render half of the exam's rooms as in the demo, with seeds that nothing else uses."""
    count = max(1, cfg.rooms // 2)
    parts: list[Snapshots] = []
    for index in range(count):
        progress(index, count)
        seed = (cfg.seed, _EXAM, index + count * scanned)
        parts.append(demo_pictures(seed, room_kind(index), cfg.views, _DEMO_SPACING, scanned))
    return join(parts)


_PIECES = 2400
_SPECIAL = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def known_sentences() -> Iterator[str]:
    """Yield every frame, name and phrase of what LISA-nano knows at least once."""
    phrases = teacher_sentences.load_phrases()
    names = [name for label in phrases for name in (label, *phrases[label].names)]
    for label in QUERY_LABELS:
        yield from (f"It is the {label}, not in this view.", plural(label), f"the {label}")
    for color in COLORS:
        yield f"It is the {color} one."
    for frame, name in zip(itertools.cycle(teacher_sentences.NAME_FRAMES), names * 2):
        yield frame.format(name=name)
    slots = {"color": "red", "host": "desk", "names": "chairs", "count": "two", "other": "bed"}
    slots["it"] = "the chair"
    for frame in teacher_sentences.OTHER_FRAMES:
        yield frame.format(name="chair", anchor="table", **slots)
    for label in phrases:
        wording = phrases[label]
        verbs = zip(itertools.cycle(teacher_sentences.VERB_FRAMES), wording.verbs)
        yield from (frame.format(verb=verb) for frame, verb in verbs)
        yield from wording.situations
        yield from wording.descriptions
    yield from (f"{text} {text}" for text in teacher_sentences.AFTER_SITUATION)


def corpus() -> Iterator[str]:
    """Yield what the tokenizer learns from: known sentences, strangers, and prompts."""
    yield from known_sentences()
    strangers = teacher_sentences.load_strangers()
    yield from (*strangers.nouns, *strangers.verbs, *strangers.actions)
    yield from (*strangers.situations, *strangers.chatter)
    for form in ("sentence", "phrase", "explain"):
        yield build_prompt(question_of("the bed", form), "llava_v1", False).replace("<image>", " ")


TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "added_tokens.json")


def run(folder: Path, start: str = "") -> None:
    """Write ``TOKENIZER_FILES`` and special_tokens_map.json, or copy those of the folder ``start``.

    Raises DataError when ``start`` lacks one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if start:
        LisaTokenizer.from_folder(Path(start))
        for name in TOKENIZER_FILES:
            shutil.copyfile(Path(start) / name, folder / name)
        return
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        # Sentences are repeated, because pairs that occur once are not merged.
        sentence_iterator=iter([text for text in corpus() for _ in range(3)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        add_dummy_prefix=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    added = ("<im_patch>", "<im_start>", "<im_end>", "[SEG]")
    special = {
        f"{kind}_token": {"content": text, **_SPECIAL}
        for kind, text in (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"))
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": True,
        "model_max_length": 2048,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
        **{name: {"__type": "AddedToken", **value} for name, value in special.items()},
    }
    files = {
        "added_tokens.json": {text: size + i for i, text in enumerate(added)},
        "special_tokens_map.json": {**special, "pad_token": "<unk>"},
        "tokenizer_config.json": config,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
