"""Artifacts of training: the student's weights and state, and the text student's.

``model.safetensors`` (weights), ``config.yaml`` (what builds the network), ``metrics.jsonl``
(one line an epoch) and ``state.pt`` (tensors, numbers and texts only; read without pickle's
code). The state carries the log, so after a kill at any moment the log is rewritten from it.

``adapter.safetensors`` holds the adapter and, for the teacher's own language model, the mean
image; ``text.json`` names the encoder and says how well left-out sentences were predicted.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from data.artifacts.store import require_complete, write_text_atomic
from data.errors import ArtifactError
from data.types import Array

if TYPE_CHECKING:
    from torch import Tensor


MODEL = "model.safetensors"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
STATE = "state.pt"
_STUDENT_REMEDY = "Run TrainStudent again."


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
        raise ArtifactError(path, "one JSON object a line", str(error), _STUDENT_REMEDY) from error


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

    require_complete(folder, _STUDENT_REMEDY)
    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("no mapping")
        path = folder / MODEL
        return load_file(path), config
    except (OSError, ValueError, yaml.YAMLError, SafetensorError) as error:
        raise ArtifactError(
            path, "a student of this schema", str(error), _STUDENT_REMEDY
        ) from error


ADAPTER = "adapter.safetensors"
FACTS = "text.json"
_TEXT_REMEDY = "Run DistilText again."


@dataclass(frozen=True, eq=False)
class TextStudent:
    """An adapter from E-dimensional text features to D-dimensional query tokens.

    Attributes:
        encoder: "teacher", "sentence" or "clip".
        identity: the encoder's weights by a hash of their content.
        weight: (E, D) float32; a unit feature times it, plus ``bias``, points like the token.
        bias: (D,) float32.
        mean_tokens: (T, C) float32, the mean image's tokens, with "teacher" only.
        num_sentences: distinct sentences it was fitted to.
        left_out_cosine: mean cosine of each sentence's token to what the other sentences
            predict for it; None where there was but one sentence.
        penalty: the ridge penalty that was chosen.
        residual: whether it was shrunk to the identity rather than to 0.
    """

    encoder: str
    identity: Mapping[str, str]
    weight: Array
    bias: Array
    mean_tokens: Array | None = None
    num_sentences: int = 0
    left_out_cosine: float | None = None
    penalty: float = 0.0
    residual: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(f"weight {self.weight.shape} and bias {self.bias.shape} do not fit")
        if (self.mean_tokens is not None) != (self.encoder == "teacher"):
            raise ValueError(f"a mean image belongs to 'teacher' alone, not to {self.encoder!r}")
        if self.mean_tokens is not None and self.mean_tokens.ndim != 2:
            raise ValueError(f"mean_tokens must be (T, C), got {self.mean_tokens.shape}")
        for name, array in self.arrays().items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite float32, got {array.dtype}")
        if self.left_out_cosine is not None and not math.isfinite(self.left_out_cosine):
            raise ValueError("left_out_cosine must be finite or None")

    def arrays(self) -> dict[str, Array]:
        """What ``adapter.safetensors`` holds, by name."""
        arrays = {"weight": self.weight, "bias": self.bias}
        return arrays if self.mean_tokens is None else arrays | {"mean_tokens": self.mean_tokens}

    def facts(self) -> dict[str, Any]:
        """What ``text.json`` holds."""
        return {
            "encoder": self.encoder,
            "identity": dict(self.identity),
            "num_sentences": self.num_sentences,
            "left_out_cosine": self.left_out_cosine,
            "penalty": self.penalty,
            "residual": self.residual,
        }


def write_text_student(folder: Path, student: TextStudent) -> None:
    """Write both files, each whole or not at all."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in student.arrays().items()}
    aside = folder / f".{ADAPTER}.tmp"
    # safetensors' own save_file makes files that only their owner can read.
    with open(aside, "wb") as stream:
        stream.write(save(arrays))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, folder / ADAPTER)
    write_text_atomic(folder / FACTS, json.dumps(student.facts(), indent=1) + "\n")


def read_text_student(folder: Path) -> TextStudent:
    """A finished text student.

    Raises:
        ArtifactError: the folder is not a finished artifact or a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    require_complete(folder, _TEXT_REMEDY)
    path = folder / FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        path = folder / ADAPTER
        arrays: dict[str, Any] = load(path.read_bytes())
        return TextStudent(**arrays, **facts)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            path, "a text student of this schema", str(error), _TEXT_REMEDY
        ) from error
