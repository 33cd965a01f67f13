"""``python -m pipeline verify``: whether every finished artifact is still as it was written."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from data.artifacts.cleanup import (
    ROOMS_STAGE,
    Finding,
    artifacts_below,
    check_artifact,
    check_objects,
    num_files,
    objects_below,
    place_of,
    remove,
)
from data.artifacts.metadata import METADATA
from data.artifacts.object_store import Place, RemoteFolder, reachable
from data.errors import UserError
from pipeline import progress
from pipeline.command import Command, Failure

_TASKS = {"nano_teacher": "TrainNanoTeacher"}


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("path", nargs="?", help="an artifact, or a folder of artifacts, also s3://...")
    add("--scene-set", default="", help="all of a scene set's: its name, or the path of its file")
    add("--scene", default="", help="of one scene only")
    add("--remove", action="store_true", help="delete damaged artifacts, to be made anew")


def _starts(options: Namespace) -> list[Place]:
    """The folders to look through; UserError when they are not said, or not there."""
    if bool(options.path) == bool(options.scene_set):
        raise UserError("give either --scene-set or the path of an artifact")
    if options.path and "://" in options.path:
        return [reachable(options.path)]
    if options.path:
        if not Path(options.path).is_dir():
            raise UserError(f"{options.path}: expected a folder of artifacts, found none")
        return [Path(options.path).absolute()]
    from pipeline.plan import output_root
    from pipeline.scene_caches import cache_root
    from pipeline.scene_sets import load_scene_set

    name, cache = load_scene_set(options.scene_set).name, cache_root()
    folder = output_root() / name
    remote: list[Place] = [cache / name] if cache is not None else []
    if not folder.is_dir():
        if remote:
            return remote
        raise UserError(
            f"{folder}: nothing was made of scene set {options.scene_set} yet. Set MLLM3D_OUTPUT "
            "if its output lies elsewhere."
        )
    return [folder, *remote]


def _below(starts: Sequence[Place], scene: str) -> tuple[list[Place], list[Place]]:
    """Finished and unfinished artifacts, of a scene or of all; UserError where there are none."""
    found = [
        objects_below(one) if isinstance(one, RemoteFolder) else artifacts_below(one)
        for one in starts
    ]
    finished: list[Place] = [folder for one in found for folder in one.finished]
    unfinished: list[Place] = [folder for one in found for folder in one.unfinished]
    if not finished and not unfinished:
        raise UserError(f"{starts[0]}: expected artifacts at or below it, found none")
    if not scene:
        return finished, unfinished
    chosen = [folder for folder in finished if place_of(folder)[1] == scene]
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


def _check(folders: Sequence[Place]) -> dict[Place, list[Finding]]:
    """Findings by artifact, each told when it is found."""
    show, total, done = _reporter(), sum(map(num_files, folders)), 0
    damaged: dict[Place, list[Finding]] = {}

    def step() -> None:
        nonlocal done
        done += 1
        show(done, total)

    for folder in folders:
        if isinstance(folder, RemoteFolder):
            findings = check_objects(folder, step)
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


def _remedy(folder: Place, findings: Sequence[Finding]) -> str:
    if all(finding.is_extra for finding in findings):
        return "Nothing reads it; move it elsewhere, or delete it with --remove."
    stage, scene = place_of(folder)
    task = _TASKS.get(stage, stage.title().replace("_", ""))
    if stage == ROOMS_STAGE:
        task = "GenerateRoom" if scene else "GenerateRooms"
    of_scene = f" --scene {scene}" if scene else ""
    return f"Remove the artifact (--remove), then run {task}{of_scene} again, or what needs it."


def _remove(damaged: dict[Place, list[Finding]]) -> list[Place]:
    """Delete damaged artifacts, and files of none; what was deleted."""
    removed: list[Place] = []
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


VERIFY = Command("check every artifact's files against their checksums", _add_arguments, _verify)
