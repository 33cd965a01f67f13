"""gc and verify: free what no run needs, and check what is kept."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from data.artifacts.cleanup import (
    Finding,
    StoredArtifact,
    artifacts_below,
    check_artifact,
    check_remote_artifact,
    is_locked,
    leftovers,
    named_results,
    num_files,
    reachable_artifacts,
    remote_artifacts_below,
    remove,
    stage_and_scene_of,
    stored_artifacts,
)
from data.artifacts.metadata import METADATA
from data.artifacts.object_store import CACHE_VARIABLE, RemoteFolder, StoragePath, reachable
from data.errors import Failure, UserError
from pipeline.commands.command import Command
from pipeline.process import progress, task_log
from pipeline.steps.declaration import stage_folders, step_of

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
    ours = list(stored_artifacts(folder, stage_folders()))
    _refuse_running(ours, options.dry_run)
    others = [path for path in root.iterdir() if path.is_dir() and path != folder]
    everything = ours + [one for path in others for one in stored_artifacts(path, stage_folders())]
    named = named_results(root)
    since = time.time() - options.keep_days * _DAY
    keep = reachable_artifacts(everything, named.values(), since)
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


def _refuse_running(ours: Sequence[StoredArtifact], is_dry: bool) -> None:
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


def _warn_lost(named: dict[Path, str], everything: Sequence[StoredArtifact], folder: Path) -> None:
    known = {name for one in everything for name in one.names}
    for path, name in named.items():
        if folder in path.parents and name not in known:
            print(f"{path}: names results that are gone ({name[:12]}); they keep nothing")


def _free(useless: Sequence[StoredArtifact], is_dry: bool) -> list[StoredArtifact]:
    """What was removed, or would be."""
    freed = []
    for one in useless:
        if is_dry or remove(one.folder):
            freed.append(one)
        else:
            print(f"{one.folder}: kept, a process is making it now")
    return freed


def _tell(freed: Sequence[StoredArtifact], sizes: dict[Path, int], is_dry: bool) -> None:
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


def _add_verify_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("path", nargs="?", help="an artifact, or a folder of artifacts, also s3://...")
    add("--scene-set", default="", help="all of a scene set's: its name, or the path of its file")
    add("--scene", default="", help="of one scene only")
    add("--remove", action="store_true", help="delete damaged artifacts, to be made anew")


def _starts(options: Namespace) -> list[StoragePath]:
    """The folders to look through; UserError when they are not said, or not there."""
    if bool(options.path) == bool(options.scene_set):
        raise UserError("give either --scene-set or the path of an artifact")
    if options.path and "://" in options.path:
        return [reachable(options.path)]
    if options.path:
        if not Path(options.path).is_dir():
            raise UserError(f"{options.path}: expected a folder of artifacts, found none")
        return [Path(options.path).absolute()]
    from pipeline.plan import cache_root, output_root
    from pipeline.scene_sets import load_scene_set

    name, cache = load_scene_set(options.scene_set).name, cache_root()
    folder = output_root() / name
    remote: list[StoragePath] = [cache / name] if cache is not None else []
    if not folder.is_dir():
        if remote:
            return remote
        raise UserError(
            f"{folder}: nothing was made of scene set {options.scene_set} yet. Set MLLM3D_OUTPUT "
            "if its output lies elsewhere."
        )
    return [folder, *remote]


def _below(
    starts: Sequence[StoragePath], scene: str
) -> tuple[list[StoragePath], list[StoragePath]]:
    """Finished and unfinished artifacts, of a scene or of all; UserError where there are none."""
    found = [
        remote_artifacts_below(one) if isinstance(one, RemoteFolder) else artifacts_below(one)
        for one in starts
    ]
    finished: list[StoragePath] = [folder for one in found for folder in one.finished]
    unfinished: list[StoragePath] = [folder for one in found for folder in one.unfinished]
    if not finished and not unfinished:
        raise UserError(f"{starts[0]}: expected artifacts at or below it, found none")
    if not scene:
        return finished, unfinished
    chosen = [
        folder for folder in finished if stage_and_scene_of(folder, stage_folders())[1] == scene
    ]
    if not chosen:
        raise UserError(f"--scene: {starts[0]} holds no artifact of scene {scene!r}")
    return chosen, []


def _verify(options: Namespace) -> None:
    """Print a line for every file that is not as it was written; Failure when there is one."""
    starts = _starts(options)
    folders, unfinished = _below(starts, options.scene)
    damaged = _check(folders)
    for folder in unfinished:
        print(f"{folder}: unfinished; the next run that needs it goes on with it or makes it anew")
    findings = sum(map(len, damaged.values()))
    if not findings:
        start = " and ".join(map(str, starts))
        print(f"{start}: {len(folders)} artifacts, all files as they were written")
        return
    removed = _remove(damaged) if options.remove else []
    told = f"{findings} findings in {len(damaged)} of {len(folders)} artifacts"
    if removed:
        told += f"; {len(removed)} removed, which the next run makes anew"
    raise Failure(told)


def _check(folders: Sequence[StoragePath]) -> dict[StoragePath, list[Finding]]:
    """Findings by artifact, each told when it is found."""
    show, total, done = _reporter(), sum(map(num_files, folders)), 0
    damaged: dict[StoragePath, list[Finding]] = {}

    def step() -> None:
        nonlocal done
        done += 1
        show(done, total)

    for folder in folders:
        if isinstance(folder, RemoteFolder):
            findings = check_remote_artifact(folder, step)
        else:
            findings = check_artifact(folder, step)
        if findings:
            damaged[folder] = findings
            print("\n".join(f"{finding.path}: {finding.what}" for finding in findings))
            print(f"  {_remedy(folder, findings)}")
    return damaged


def _reporter() -> progress.Show:
    logger = logging.getLogger("luigi-interface.progress")
    if not logging.getLogger("luigi-interface").handlers and not logger.handlers:
        logger.setLevel(logging.INFO)
        logger.addHandler(logging.StreamHandler(sys.stderr))
    return progress.reporter("verify", alone=True)


def _remedy(folder: StoragePath, findings: Sequence[Finding]) -> str:
    if all(finding.is_extra for finding in findings):
        return "Nothing reads it; move it elsewhere, or delete it with --remove."
    stage, scene = stage_and_scene_of(folder, stage_folders())
    step = step_of(stage, scene or None)
    task = step.task_name if step is not None else "RunAll"
    of_scene = f" --scene {scene}" if scene else ""
    return f"Remove the artifact (--remove), then run {task}{of_scene} again, or what needs it."


def _remove(damaged: dict[StoragePath, list[Finding]]) -> list[StoragePath]:
    """Delete damaged artifacts, and files of none; what was deleted."""
    removed: list[StoragePath] = []
    for folder, findings in damaged.items():
        if all(finding.is_extra for finding in findings):
            for finding in findings:
                finding.path.unlink()
        elif isinstance(folder, RemoteFolder):
            (folder / METADATA).unlink()
            folder.remove()
            removed.append(folder)
        elif not folder.exists() or remove(folder):  # A room may have gone with all rooms.
            removed.append(folder)
        else:
            print(f"{folder}: kept, a process is making it now")
    return removed


VERIFY = Command(
    "check every artifact's files against their checksums", _add_verify_arguments, _verify
)
