"""Stage: generate procedural rooms with queries, written as a ScanNet++ data set.

``run_room`` writes one room, and rooms may be written in parallel; ``run_index`` then writes the
files about all rooms: splits, class lists and query files.
"""

from __future__ import annotations

from pathlib import Path

from data.rooms.ids import room_kind, room_seed, scene_id
from data.types import SPLITS, Split
from stages.configs import GenerateConfig

_PLOT = 9.0
"""Metres reserved for each room of a home; no room is longer at any rotation."""


def scene_ids(cfg: GenerateConfig, split: Split) -> list[str]:
    """Return the ids of a split's rooms in order; they depend on seed, split and index only."""
    return [scene_id(cfg.seed, split, index) for index in range(cfg.rooms(split))]


def run_room(root: Path, split: Split, index: int, cfg: GenerateConfig) -> None:
    """Write room ``index`` of a split to ``root/data/<id>`` and its queries to ``root/queries``.

    The files depend on (cfg, split, index) only; no file of another room is touched.
    """
    from data.rooms.scanning.scan import Scanning
    from data.rooms.write import write_room

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
        cfg.train_questions if split == "train" else 1,
        cfg.room_scale,
        _origin(index, cfg),
        (cfg.qa_questions, cfg.searches if cfg.rooms_per_place else 0),
        (
            Scanning(
                cfg.sensor,
                cfg.scan_views,
                (cfg.pose_drift, cfg.pose_drift_degrees),
                cfg.clutter,
                cfg.voxel,
            )
            if cfg.scan == "scanned"
            else None
        ),
    )


def _origin(index: int, cfg: GenerateConfig) -> tuple[float, float]:
    """Return the origin (x, y) of a room, metres; rooms of one home stand in a row."""
    if not cfg.rooms_per_place:
        return (0.0, 0.0)
    return (round(index % cfg.rooms_per_place * _PLOT * cfg.room_scale, 2), 0.0)


def run_index(root: Path, cfg: GenerateConfig) -> None:
    """Write ``splits/``, ``metadata/`` and ``queries/<split>.json`` from finished rooms.

    A split without rooms gets no files. Raises DataError where a room's files are missing.
    """
    from data.rooms.write import write_index

    write_index(root, {split: scene_ids(cfg, split) for split in SPLITS if cfg.rooms(split)})
