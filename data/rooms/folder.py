"""One room to its folder, and the files that span rooms."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.rooms.asking import Extra, ask
from data.rooms.catalog import STRUCTURE
from data.rooms.facts import gather_facts
from data.rooms.pictures import fisheye_camera
from data.rooms.poses import choose_poses
from data.rooms.render import Renderer
from data.rooms.room import make_room
from data.rooms.scan import scan_room
from data.rooms.write import (
    INSTANCE_CLASSES,
    SEMANTIC_CLASSES,
    dump_json,
    dump_lines,
    write_colmap,
    write_nerfstudio,
    write_pictures,
    write_scan,
)
from data.undistort import Undistorter

_REMEDY = "Generate the rooms again."


def write_room(
    root: Path,
    scene_id: str,
    split: str,
    seed: Sequence[int],
    kind: str,
    num_views: int,
    size: tuple[int, int],
    spacing: float,
    questions: int = 1,
    scale: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    extra: tuple[int, int] = (0, 0),
) -> None:
    """Make, render and write one room below ``root``; ``size`` is (height, width) in pixels.

    ``questions``: how many times the usual number it is asked. ``scale`` and ``corner`` as of
    ``make_room``; ``extra`` are the numbers of questions with answers and of searches.
    """
    room = make_room(seed, kind, spacing, scale, corner)
    camera = fisheye_camera(*size, room.seed)
    undistorter = Undistorter.make(camera)
    poses = choose_poses(room, num_views)
    first = 100 + 37 * (int(scene_id[:4], 16) % 200)
    names = [f"DSC{first + 3 * view + view % 2:05d}.JPG" for view in range(num_views)]
    renderer = Renderer(room, camera)
    images, pixels = [], []
    for pose in poses:
        picture = renderer(pose)
        images.append(picture.image)
        owners = picture.object_ids[picture.object_ids >= 0]
        pixels.append(np.bincount(owners, minlength=len(room.objects)))
    scan = scan_room(room)
    folder = root / "data" / scene_id
    write_scan(folder / "scans", scan)
    dslr = folder / "dslr"
    write_pictures(dslr, names, images, undistorter)
    write_colmap(dslr / "colmap", camera, names, poses, scan)
    test = names[:: max(2, num_views // 2)][:2]
    write_nerfstudio(dslr / "nerfstudio", camera, undistorter.camera, names, poses, test)
    train = [name for name in names if name not in test]
    lists = {"train": train, "test": test, "has_masks": True}
    dump_json(dslr / "train_test_lists.json", lists)
    facts = gather_facts(room, scan, pixels)
    more = Extra(kind, *extra) if any(extra) else None
    records = ask(scene_id, split, facts, names, size[0] * size[1], room.seed, questions, more)
    (root / "queries" / "rooms").mkdir(parents=True, exist_ok=True)
    dump_json(root / "queries" / "rooms" / f"{scene_id}.json", records)


def write_index(root: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write splits, class lists and the query files of finished rooms."""
    for split, names in splits.items():
        records = [r for name in names for r in _load(root / "queries" / "rooms" / f"{name}.json")]
        rows = ",\n".join(json.dumps(record) for record in records)
        (root / "queries" / f"{split}.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
        (root / "splits").mkdir(exist_ok=True)
        dump_lines(root / "splits" / f"nvs_sem_{split}.txt", names)
    counts: Counter[str] = Counter()
    for name in itertools.chain.from_iterable(splits.values()):
        annotation = _load(root / "data" / name / "scans" / "segments_anno.json")
        counts.update(group["label"] for group in annotation["segGroups"])
    _write_classes(root / "metadata", counts)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, "a finished room's JSON file", str(error), _REMEDY) from error


def _write_classes(folder: Path, counts: Counter[str]) -> None:
    benchmark = folder / "semantic_benchmark"
    benchmark.mkdir(parents=True, exist_ok=True)
    dump_lines(folder / "semantic_classes.txt", SEMANTIC_CLASSES)
    dump_lines(folder / "instance_classes.txt", INSTANCE_CLASSES)
    dump_lines(benchmark / "top100.txt", SEMANTIC_CLASSES)
    dump_lines(benchmark / "top100_instance.txt", INSTANCE_CLASSES)
    with open(benchmark / "map_benchmark.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["class", "count", "semantic_map_to", "instance_map_to"])
        for label in SEMANTIC_CLASSES:
            writer.writerow([label, counts[label], "", "None" if label in STRUCTURE else ""])
