"""``python -m pipeline gc``: free what no named and no recent run was made from."""

from __future__ import annotations

import os
import shutil
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from data.artifacts.cleanup import (
    Stored,
    is_locked,
    kept,
    leftovers,
    named_results,
    remove,
    stored_in,
)
from data.artifacts.object_store import CACHE_VARIABLE
from data.errors import UserError
from pipeline import task_log
from pipeline.command import Command, Failure

_DAY = 86_400.0


def _days(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected a whole number of days from 0 on, found {text!r}")
    return int(text)


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--scene-set", required=True, help="a file in configs/scene_sets, or the path of one")
    add("--dry-run", action="store_true", help="only say what would be freed")
    add("--keep-days", type=_days, default=7, metavar="N", help="keep what is younger; default: 7")


def _collect(options: Namespace) -> None:
    """Free, stage by stage; UserError where nothing says what to keep, Failure during a run.

    What a running job reads is not known before it has finished. So nothing is freed while any
    artifact of the set is being made; a run that starts meanwhile makes anew what it misses.
    """
    from pipeline.plan import output_root
    from pipeline.scene_sets import load_scene_set

    root = output_root()
    folder = root / load_scene_set(options.scene_set).name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: nothing was made of scene set {options.scene_set} yet. Set MLLM3D_OUTPUT "
            "if its output lies elsewhere."
        )
    ours = list(stored_in(folder))
    _refuse_running(ours, options.dry_run)
    others = [path for path in root.iterdir() if path.is_dir() and path != folder]
    everything = ours + [one for path in others for one in stored_in(path)]
    named = named_results(root)
    since = time.time() - options.keep_days * _DAY
    keep = kept(everything, named.values(), since)
    _warn_lost(named, everything, folder)
    if not options.dry_run:
        for path in list(leftovers(folder)):
            shutil.rmtree(path)
    sizes = {one.folder: _bytes(one.folder) for one in ours}
    freed = _free([one for one in ours if one.folder not in keep], options.dry_run)
    _tell(freed, sizes, options.dry_run)
    rest = [one.folder for one in ours if one.folder in keep]
    for path in task_log.outdated(folder, {kept_one.name for kept_one in rest}, since):
        if not options.dry_run:
            path.unlink()
    told = f"kept: {len(rest)} artifacts, {_mb(sum(sizes[path] for path in rest))}, that the "
    told += f"results named by {sum(folder in path.parents for path in named)} pointers, "
    print(f"{told}or work of the last {options.keep_days} days, were made from")
    if os.environ.get(CACHE_VARIABLE):
        print(f"{os.environ[CACHE_VARIABLE]}: left as it is; gc frees nothing in object stores")


def _refuse_running(ours: Sequence[Stored], is_dry: bool) -> None:
    running = [one.folder for one in ours if is_locked(one.folder)]
    if not running:
        return
    told = f"{running[0]} is being made now"
    if is_dry:
        print(f"{told}; until that is done nothing will be freed")
        return
    raise Failure(
        f"{told}, and what it is made from is known once it is finished. Nothing was freed; "
        "run gc again then."
    )


def _warn_lost(named: dict[Path, str], everything: Sequence[Stored], folder: Path) -> None:
    known = {name for one in everything for name in one.names}
    for path, name in named.items():
        if folder in path.parents and name not in known:
            print(f"{path}: names results that are gone ({name[:12]}); they keep nothing")


def _free(useless: Sequence[Stored], is_dry: bool) -> list[Stored]:
    """What was removed, or would be."""
    freed = []
    for one in useless:
        if is_dry or remove(one.folder):
            freed.append(one)
        else:
            print(f"{one.folder}: kept, a process is making it now")
    return freed


def _tell(freed: Sequence[Stored], sizes: dict[Path, int], is_dry: bool) -> None:
    for stage in dict.fromkeys(one.stage for one in freed):
        of_stage = [one for one in freed if one.stage == stage]
        size = _mb(sum(sizes[one.folder] for one in of_stage))
        halves = sum(not one.is_finished for one in of_stage)
        told = f"{stage}: {len(of_stage)} artifacts, {size}"
        print(f"{told} ({halves} unfinished)" if halves else told)
    verb = "would free" if is_dry else "freed"
    print(f"{verb}: {len(freed)} artifacts, {_mb(sum(sizes[one.folder] for one in freed))}")


def _bytes(folder: Path) -> int:
    walked = os.walk(folder)
    return sum(
        os.lstat(os.path.join(at, name)).st_size for at, _, names in walked for name in names
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


GC = Command("free artifacts that no named or recent run needs", _add_arguments, _collect)
