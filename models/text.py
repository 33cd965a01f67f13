"""Text encoders that turn a sentence into a vector without an image.

transformers reads sentence encoders (such as MiniLM) and CLIP's text tower from a folder or a hub
id; the encoder of the teacher's language model is in ``models.lisa.teacher``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from data.errors import UserError
from models.hub import HUB_ID, fetch_folder

FloatArray = NDArray[np.float32]
_ROWS_AT_ONCE = 64
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_LONGEST = 512
"""Most tokens of a text for models whose config has no limit."""
_PROBE = ("a chair",)
# Heads that text vectors do not use; published checkpoints often lack them.
_UNUSED = ("pooler.",)


class UnreadableEncoder(UserError):
    """Weights or tokenizer cannot be read; ``reason`` is the cause without the remedy."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TextEncoder(Protocol):
    """Encodes texts as vectors; each vector depends on its text alone."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Encode n texts as (n, dim) float32, one row per text in their order."""
        ...


class SentenceEncoder:
    """Any text model of transformers; a vector is the mean of the last states of the tokens."""

    def __init__(self, weights: str | Path, device: str = "cpu") -> None:
        """Load model and tokenizer from a folder or a hub id.

        Raises:
            UserError: the files are missing or damaged, the model encodes no text, or the device
                is not available.
        """
        self._model, self._tokenizer = _load(AutoModel, AutoTokenizer, weights, device)
        self._device, self.dim = device, 0
        self.dim = _probed_dim(self, weights, "sentence")

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Encode n texts as (n, dim) float32 unit rows; longer texts than the limit are cut."""
        return _in_batches(self._encode, texts, self.dim)

    def _encode(self, texts: list[str]) -> Tensor:
        inputs = _tokens(self._model, self._tokenizer, texts, self._device)
        states = self._model(**inputs).last_hidden_state.float()
        return mean_pool(states, inputs["attention_mask"])


class ClipText:
    """CLIP's text tower; a vector is the projected state that CLIP compares with images."""

    def __init__(self, weights: str | Path, device: str = "cpu") -> None:
        """Load the tower and its tokenizer from a folder (a whole CLIP's too) or a hub id.

        Raises:
            UserError: the files are missing or damaged, or the device is not available.
        """
        self._model, self._tokenizer = _load(
            CLIPTextModelWithProjection, CLIPTokenizer, weights, device
        )
        self._device, self.dim = device, 0
        self.dim = _probed_dim(self, weights, "clip")

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Encode n texts as (n, dim) float32 unit rows; texts are cut at CLIP's 77 tokens."""
        return _in_batches(self._encode, texts, self.dim)

    def _encode(self, texts: list[str]) -> Tensor:
        inputs = _tokens(self._model, self._tokenizer, texts, self._device)
        return cast(Tensor, self._model(**inputs).text_embeds.float())


def mean_pool(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean (n, E) of ``states`` (n, S, E) where ``attention_mask`` (n, S) is 1."""
    mask = attention_mask[..., None].to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1).clamp_min(1)


def _in_batches(encode: Any, texts: Sequence[str], dim: int) -> FloatArray:
    distinct = list(dict.fromkeys(texts))
    parts = [np.zeros((0, dim), np.float32)] if not distinct else []
    with torch.inference_mode():
        for start in range(0, len(distinct), _ROWS_AT_ONCE):
            vectors = encode(distinct[start : start + _ROWS_AT_ONCE])
            parts.append(F.normalize(vectors, dim=1).cpu().numpy())
    rows = {text: row for row, text in enumerate(distinct)}
    whole = np.concatenate(parts)
    return np.asarray(whole[[rows[text] for text in texts]] if len(texts) else whole)


def _tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], device: str
) -> dict[str, Tensor]:
    sizes = model.config.get_text_config()
    longest = getattr(sizes, "max_position_embeddings", None) or _LONGEST
    readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    inputs = tokenizer(
        readable,
        padding=True,
        truncation=True,
        max_length=min(tokenizer.model_max_length, longest),
        return_tensors="pt",
    )
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _load(
    model_class: Any, tokenizer_class: Any, weights: str | Path, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = _source(weights)
    try:
        with _quietly():
            tokenizer = tokenizer_class.from_pretrained(source)
            model, info = model_class.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # noqa: B902 - what transformers raises depends on the damage
        raise _refused(weights, _one_line(error)) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise _refused(weights, f"no weights {named}")
    try:
        return model.to(device).eval().requires_grad_(False), tokenizer
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the device {device!r} cannot be used: {reason}") from error


def _source(weights: str | Path) -> str:
    """Return a local path as it is, or the download of a hub id.

    transformers would retry an unreachable hub for minutes; here the refusal comes at once.
    """
    path = Path(weights).expanduser()
    if path.exists() or not HUB_ID.fullmatch(str(weights)):
        return str(path)
    try:
        return str(fetch_folder(str(weights), _SMALL_FILES))
    except UserError as error:
        cause = error.__cause__
        reason = _one_line(cause) if isinstance(cause, Exception) else str(error)
        raise _refused(weights, reason) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence transformers' load reports, which are checked here, and its progress bars."""
    reports: Any = logging  # transformers' logging is only partly typed.
    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()


def _probed_dim(encoder: SentenceEncoder | ClipText, weights: str | Path, name: str) -> int:
    """Encode a text to find the length of vectors; UserError if the model cannot encode it."""
    try:
        return int(encoder.encode(_PROBE).shape[1])
    except Exception as error:  # noqa: B902 - a model with image inputs may fail anywhere
        reason = _one_line(error)
        message = (
            f"text.weights: {weights} is no text encoder that serves as text.encoder={name} "
            f"({reason})"
        )
        raise UnreadableEncoder(message, f"it encodes no text: {reason}") from error


def _refused(weights: str | Path, reason: str) -> UnreadableEncoder:
    return UnreadableEncoder(
        f"text.weights: no text encoder can be read from {weights} ({reason}). Give a folder with "
        "config.json, the weights and the tokenizer's files, such as one of "
        "sentence-transformers/all-MiniLM-L6-v2 (text.encoder=sentence) or "
        "openai/clip-vit-base-patch32 (text.encoder=clip), or a hub id that can be reached.",
        reason,
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
