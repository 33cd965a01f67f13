"""Fixtures of the tests of LISA-nano: images of one small room, and a tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from data.rooms.catalog import STRUCTURE
from data.rooms.snapshots import Snapshots, small_pictures, write_snapshots
from data.types import Progress, silent
from models.lisa import trainee as trainee_module
from models.lisa.network import LisaConfig
from models.lisa.tokenizer import LisaTokenizer
from models.lisa.trainee import NanoTrainee, nano_config, nano_network
from stages.nano import prepare, train
from stages.nano.batches import COLOR_IDS, LABEL_IDS, AnswerFormat, NanoData
from stages.nano.configs import NanoTrainConfig

SEED = (5, 2, 1)
SPACING = 0.3


@cache
def office() -> Snapshots:
    """Make four images of a coarse office in which every object has one clear colour."""
    pictures = small_pictures(SEED, "office", 4, SPACING, 1.5)
    (room,) = pictures.rooms
    colors = ["" if item.label in STRUCTURE else item.all_colors[-1] for item in room]
    clear = tuple(
        replace(item, color=color, all_colors=(color,) if color else ())
        for item, color in zip(room, colors)
    )
    return replace(pictures, rooms=(clear,))


@cache
def _tokenizer() -> Mapping[str, bytes]:
    """Train a tokenizer; returns its files by name."""
    with tempfile.TemporaryDirectory() as folder:
        prepare.run(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write_tokenizer(folder: Path) -> Path:
    """Write the files of the tokenizer that is trained here."""
    folder.mkdir(exist_ok=True)
    for name, content in _tokenizer().items():
        (folder / name).write_bytes(content)
    return folder


@cache
def answers() -> AnswerFormat:
    """Return the form of answers under the tokenizer that is trained here."""
    with tempfile.TemporaryDirectory() as folder:
        return AnswerFormat(LisaTokenizer.from_folder(write_tokenizer(Path(folder))))


def write_shard(folder: Path) -> Path:
    """Write the office as a shard of training images."""
    folder.mkdir()
    write_snapshots(folder, office())
    return folder


def nano_data(folder: Path) -> NanoData:
    """Return the data of batches, with its only shard in ``folder``."""
    return NanoData([write_shard(folder)], answers())


def untrained() -> NanoTrainee:
    """Return a new network in eval mode; every call gives the same weights."""
    torch.manual_seed(3)
    size = answers().tokenizer.seg_id + 1
    return NanoTrainee(nano_network(size), len(LABEL_IDS), len(COLOR_IDS)).eval()


_WORK = train._work
_CHANNELS = 32


def small_config(vocab_size: int) -> LisaConfig:
    """LISA-nano with the same parts and picture sizes, one narrow layer of each."""
    with patch.object(trainee_module, "_CHANNELS", _CHANNELS):
        config = nano_config(vocab_size)
    clip, llama = config.clip, config.llama
    vision: Any = config.sam.vision_config
    for part in (clip, llama, vision):
        part.num_hidden_layers, part.hidden_size = 1, _CHANNELS
    clip.intermediate_size = llama.intermediate_size = vision.mlp_dim = 2 * _CHANNELS
    llama.head_dim = _CHANNELS // llama.num_attention_heads
    vision.global_attn_indexes = [0]
    return config


def small_work(
    rank: int,
    folder: Path,
    shards: Sequence[Path],
    tokenizer_folder: Path,
    cfg: NanoTrainConfig,
    progress: Progress = silent,
) -> None:
    """Run ``stages.nano.train._work`` on the small network; processes import it."""
    with patch.object(trainee_module, "nano_config", small_config):
        _WORK(rank, folder, shards, tokenizer_folder, cfg, progress)
