"""Read and write what training leaves: the student's weights and state, and the text student.

The student is ``model.safetensors`` (weights), ``config.yaml`` (the network's parameters),
``metrics.jsonl`` (one line an epoch) and ``state.pt`` (the last checkpoint: tensors, numbers and
texts only, read without running pickled code). The checkpoint contains the log, from which the
log file is rewritten after a kill.

The text student is ``adapter.safetensors`` (the adapter and, for the teacher's language model,
the mean image's tokens) and ``text.json`` (the encoder's name and the fit's quality).
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

    ``state`` holds tensors, numbers, texts, and lists and dicts of those; ``log`` holds one
    mapping an epoch.
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
    """Read the last checkpoint onto the CPU, its log under ``log``; None where there is none.

    Raises:
        ArtifactError: the file exists but cannot be read.
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
    """Read the log, one mapping an epoch; an empty list where there is no log.

    Raises ArtifactError when it cannot be read.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise ArtifactError(path, "one JSON object a line", str(error), _STUDENT_REMEDY) from error


def write_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the trained weights and the network's parameters (``config``)."""
    from safetensors.torch import save_file

    write_text_atomic(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=True))
    aside = folder / f".{MODEL}.tmp"
    save_file({name: value.contiguous().cpu() for name, value in weights.items()}, aside)
    os.replace(aside, folder / MODEL)


def read_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights (onto the CPU) and the config of a finished student.

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
        encoder: the text encoder: "teacher", "sentence" or "clip".
        identity: the encoder's weights, by a hash of their content.
        weight: (E, D) float32; a unit feature times ``weight`` plus ``bias`` has the direction
            of the query token.
        bias: (D,) float32.
        mean_tokens: (T, C) float32, the mean image's tokens; with "teacher" only.
        num_sentences: number of distinct sentences in the fit.
        left_out_cosine: leave-one-out quality: the mean cosine between each sentence's token and
            the prediction fitted to the other sentences; None with a single sentence.
        penalty: the ridge penalty that was chosen.
        residual: whether the weight was shrunk to the identity rather than to 0.
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
        """The arrays of ``adapter.safetensors``, by name."""
        arrays = {"weight": self.weight, "bias": self.bias}
        return arrays if self.mean_tokens is None else arrays | {"mean_tokens": self.mean_tokens}

    def facts(self) -> dict[str, Any]:
        """The content of ``text.json``."""
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
    # save_file of safetensors makes files that only their owner can read.
    with open(aside, "wb") as stream:
        stream.write(save(arrays))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, folder / ADAPTER)
    write_text_atomic(folder / FACTS, json.dumps(student.facts(), indent=1) + "\n")


def read_text_student(folder: Path) -> TextStudent:
    """Read a finished text student.

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
