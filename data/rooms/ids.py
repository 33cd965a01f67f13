"""Derive the names, seeds and kinds of rooms from a seed, without importing any heavy package."""

from __future__ import annotations

import hashlib

from data.types import Split

KINDS = ("bedroom", "office", "living", "service")
# 2 and 3 belong to the rooms on which LISA-nano is trained and tested.
_STREAMS: dict[Split, int] = {"train": 0, "val": 1, "tune": 4}


def scene_id(seed: int, split: Split, index: int) -> str:
    """Return a room's scene id: ten lower-case hex digits, like ScanNet++'s ids."""
    return hashlib.sha256(f"room/{seed}/{split}/{index}".encode()).hexdigest()[:10]


def room_seed(seed: int, split: Split, index: int) -> tuple[int, int, int]:
    """Return the entropy of a room's random generator; rooms of other splits have other ones."""
    return (seed, _STREAMS[split], index)


def room_kind(index: int) -> str:
    """Return a room's kind; kinds alternate, so a split of four rooms or more has every kind."""
    return KINDS[index % len(KINDS)]
