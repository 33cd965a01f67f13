"""Names of rooms: pure functions of a seed, importable without any heavy package."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
KINDS = ("bedroom", "office", "living", "service")


def scene_id(seed: int, split: Split, index: int) -> str:
    """Ten lower-case hex digits, as ScanNet++ names its scenes."""
    return hashlib.sha256(f"room/{seed}/{split}/{index}".encode()).hexdigest()[:10]


def room_seed(seed: int, split: Split, index: int) -> tuple[int, int, int]:
    """Entropy of one room's generator."""
    return (seed, SPLITS.index(split), index)


def room_kind(index: int) -> str:
    """Kinds take turns, so every kind occurs in a split of four rooms or more."""
    return KINDS[index % len(KINDS)]
