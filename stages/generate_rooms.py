"""Stage: procedural rooms with queries, written as a ScanNet++ data set.

``run_room`` writes one room and may run beside others; ``run_index`` then writes what spans
rooms: splits, class lists and query files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data.rooms.ids import room_kind, room_seed, scene_id
from stages.configs import GenerateConfig


def scene_ids(cfg: GenerateConfig, split: Literal["train", "val"]) -> list[str]:
    """Ids of a split's rooms, in order: a pure function of seed, split and index."""
    count = cfg.train_rooms if split == "train" else cfg.val_rooms
    return [scene_id(cfg.seed, split, index) for index in range(count)]


def run_room(root: Path, split: Literal["train", "val"], index: int, cfg: GenerateConfig) -> None:
    """Write room ``index`` of a split to ``root/data/<id>`` and its queries to ``root/queries``.

    Deterministic in (cfg, split, index); touches nothing another room writes.
    """
    from data.rooms.folder import write_room

    name = scene_id(cfg.seed, split, index)
    write_room(
        root,
        name,
        split,
        room_seed(cfg.seed, split, index),
        room_kind(index),
        cfg.views,
        (cfg.height, cfg.width),
        cfg.vertex_spacing,
    )


def run_index(root: Path, cfg: GenerateConfig) -> None:
    """Write ``splits/``, ``metadata/`` and ``queries/{train,val}.json`` from finished rooms.

    DataError when a room's files are missing.
    """
    from data.rooms.folder import write_index

    write_index(root, scene_ids(cfg, "train"), scene_ids(cfg, "val"))
