"""Stage: the pictures LISA-nano learns from, and those it is measured on."""

from __future__ import annotations

from pathlib import Path

from data.progress import Progress, silent
from data.rooms.ids import room_kind
from data.rooms.snapshots import Snapshots, demo_pictures, join, small_pictures, write_snapshots
from stages.nano.configs import NanoExamConfig, NanoPicturesConfig

# Middles of seeds that no room of the demo has (``data.rooms.ids``).
_TRAINING, _EXAM = 2, 3
_DEMO_SPACING = 0.05


def run_shard(
    folder: Path, shard: int, cfg: NanoPicturesConfig, progress: Progress = silent
) -> None:
    """Write one shard of training pictures; a function of (cfg, shard)."""
    parts: list[Snapshots] = []
    for index in range(shard * cfg.rooms_per_shard, (shard + 1) * cfg.rooms_per_shard):
        progress(len(parts), cfg.rooms_per_shard)
        seed = (cfg.seed, _TRAINING, index)
        kind = room_kind(index)
        parts.append(small_pictures(seed, kind, cfg.views, cfg.vertex_spacing, cfg.oversampling))
    write_snapshots(folder, join(parts))


def exam_pictures(cfg: NanoExamConfig, progress: Progress = silent) -> Snapshots:
    """Rooms as the demo would show them, of seeds nothing else uses."""
    parts: list[Snapshots] = []
    for index in range(cfg.rooms):
        progress(index, cfg.rooms)
        seed = (cfg.seed, _EXAM, index)
        parts.append(demo_pictures(seed, room_kind(index), cfg.views, _DEMO_SPACING))
    return join(parts)
