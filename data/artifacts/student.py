"""Student artifact: weights, config, log, and the state that training resumes from.

``model.safetensors`` (weights), ``config.yaml`` (what builds the network), ``metrics.jsonl``
(one line an epoch) and ``state.pt`` (tensors, numbers and texts only; read without pickle's
code). The state carries the log, so after a kill at any moment the log is rewritten from it.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data.artifacts.store import require_complete, write_text_atomic
from data.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model.safetensors"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
STATE = "state.pt"
_REMEDY = "Run TrainStudent again."


def write_state(folder: Path, state: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Write a checkpoint and then the log, each whole or not at all.

    ``state`` holds tensors, numbers, texts, lists and dicts of those; ``log`` the epochs.
    """
    import torch

    aside = folder / f".{STATE}.tmp"
    with open(aside, "wb") as stream:
        torch.save({**state, "log": [dict(line) for line in log]}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, folder / STATE)
    write_log(folder, log)


def write_log(folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Write ``metrics.jsonl``: one JSON object an epoch."""
    write_text_atomic(folder / METRICS, "".join(json.dumps(line) + "\n" for line in log))


def read_state(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint on the CPU, its log under ``log``; None where there is none.

    Raises:
        ArtifactError: the file is there and cannot be read.
    """
    import torch

    path = folder / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            path, "a checkpoint", str(error).split("\n", 1)[0], "Delete it to train anew."
        ) from error
    return dict(state)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The epochs logged so far; an empty list where there is no log."""
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise ArtifactError(path, "one JSON object a line", str(error), _REMEDY) from error


def write_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the trained weights and what builds the network."""
    from safetensors.torch import save_file

    write_text_atomic(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=True))
    aside = folder / f".{MODEL}.tmp"
    save_file({name: value.contiguous().cpu() for name, value in weights.items()}, aside)
    os.replace(aside, folder / MODEL)


def read_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights (on the CPU) and config of a finished student.

    Raises:
        ArtifactError: the folder is not a finished artifact or a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_complete(folder, _REMEDY)
    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("no mapping")
        path = folder / MODEL
        return load_file(path), config
    except (OSError, ValueError, yaml.YAMLError, SafetensorError) as error:
        raise ArtifactError(path, "a student of this schema", str(error), _REMEDY) from error
