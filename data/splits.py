"""The parts of a scene set, and what each may be used for."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "val", "tune"]
SPLITS: tuple[Split, ...] = ("train", "val", "tune")
"""``train`` is learnt from without labels; on ``tune``, which may be empty, settings are chosen;
``val`` is measured on and decides nothing.
"""
