"""Checkpoint folders that tests alter: copies of the golden ones."""

from __future__ import annotations

import json
import shutil
from collections import ChainMap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from models.lisa.checkpoint import load_lisa
from models.lisa.network import LisaNetwork
from tests.support.worlds.lisa_golden import FOLDER, golden

TOKENIZER_FILES = ("tokenizer.model", "added_tokens.json", "tokenizer_config.json")


def golden_tensors(name: str) -> dict[str, Tensor]:
    """Return all tensors of a golden checkpoint by published key, in a new dict."""
    return dict(_tensors(name))


@cache
def _tensors(name: str) -> Mapping[str, Tensor]:
    shards = sorted(golden(name).checkpoint.glob("pytorch_model-*.bin"))
    return ChainMap(*(torch.load(shard, weights_only=True) for shard in shards))


def copy_golden(
    name: str,
    place: Path,
    changed: Mapping[str, Any] | None = None,
    with_weights: bool = True,
) -> Path:
    """Copy a golden checkpoint with its CLIP folder; ``changed`` updates config.json."""
    for part in ("checkpoint", "clip-vit-tiny"):
        shutil.copytree(FOLDER / name / part, place / part, copy_function=shutil.copyfile)
    folder: Path = place / "checkpoint"
    config = json.loads((folder / "config.json").read_text()) | dict(changed or {})
    (folder / "config.json").write_text(json.dumps(config))
    if not with_weights:
        for weights in folder.glob("pytorch_model*"):
            weights.unlink()
    return folder


def write_bin(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write all tensors into one .bin file."""
    torch.save(dict(tensors), folder / "pytorch_model.bin")


def same_weights(one: LisaNetwork, other: LisaNetwork) -> bool:
    """Tell whether two networks have equal weights, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def tokenizer_files(name: str) -> list[Path]:
    """Return the tokenizer files of a golden checkpoint."""
    return [golden(name).checkpoint / file for file in TOKENIZER_FILES]


def refusal(folder: str | Path, **options: Any) -> str:
    """Return the message of the error when loading fails."""
    with pytest.raises(UserError) as caught:
        load_lisa(folder, **options)
    return str(caught.value)
