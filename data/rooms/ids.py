"""Names of rooms: pure functions of a seed, importable without any heavy package."""

from __future__ import annotations

import hashlib

from data.types import Split

KINDS = ("bedroom", "office", "living", "service")
# 2 and 3 are taken: by the rooms that LISA-nano learns from and is examined on.
_STREAMS: dict[Split, int] = {"train": 0, "val": 1, "tune": 4}


def scene_id(seed: int, split: Split, index: int) -> str:
    """Ten lower-case hex digits, as ScanNet++ names its scenes."""
    return hashlib.sha256(f"room/{seed}/{split}/{index}".encode()).hexdigest()[:10]


def room_seed(seed: int, split: Split, index: int) -> tuple[int, int, int]:
    """Entropy of one room's generator, which no room of another split or purpose has."""
    return (seed, _STREAMS[split], index)


def room_kind(index: int) -> str:
    """Kinds take turns, so every kind occurs in a split of four rooms or more."""
    return KINDS[index % len(KINDS)]
