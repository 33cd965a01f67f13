"""``python -m pipeline verify``: whether every finished artifact is still as it was written."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from data.artifacts.checks import (
    ROOMS_STAGE,
    Finding,
    artifacts_below,
    check_artifact,
    num_files,
    place_of,
)
from data.artifacts.removal import remove
from data.errors import UserError
from pipeline import progress
from pipeline.command import Command, Failure

_TASKS = {"nano_teacher": "TrainNanoTeacher"}


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("path", nargs="?", type=Path, help="an artifact, or a folder of artifacts")
    add("--scene-set", default="", help="all of a scene set's: its name, or the path of its file")
    add("--scene", default="", help="of one scene only")
    add("--remove", action="store_true", help="delete damaged artifacts, to be made anew")


def _start(options: Namespace) -> Path:
    """The folder to look through; UserError when it is not said, or not there."""
    if bool(options.path) == bool(options.scene_set):
        raise UserError("give either --scene-set or the path of an artifact")
    if options.path:
        if not options.path.is_dir():
            raise UserError(f"{options.path}: expected a folder of artifacts, found none")
        return Path(options.path).absolute()
    from pipeline.plan import output_root
    from pipeline.scene_sets import load_scene_set

    folder = output_root() / load_scene_set(options.scene_set).name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: nothing was made of scene set {options.scene_set} yet. Set MLLM3D_OUTPUT "
            "if its output lies elsewhere."
        )
    return folder


def _chosen(folders: Sequence[Path], scene: str, start: Path) -> list[Path]:
    if not scene:
        return list(folders)
    chosen = [folder for folder in folders if place_of(folder)[1] == scene]
    if not chosen:
        raise UserError(f"--scene: {start} holds no artifact of scene {scene!r}")
    return chosen


def _verify(options: Namespace) -> None:
    """Print a line for every file that is not as it was written; Failure when there is one."""
    start = _start(options)
    found = artifacts_below(start)
    if not found.finished and not found.unfinished:
        raise UserError(f"{start}: expected artifacts at or below it, found none")
    folders = _chosen(found.finished, options.scene, start)
    damaged = _check(folders)
    for folder in found.unfinished if not options.scene else ():
        print(f"{folder}: unfinished; the next run that needs it goes on with it or makes it anew")
    findings = sum(map(len, damaged.values()))
    if not findings:
        print(f"{start}: {len(folders)} artifacts, all files as they were written")
        return
    removed = _remove(damaged) if options.remove else []
    told = f"{findings} findings in {len(damaged)} of {len(folders)} artifacts"
    if removed:
        told += f"; {len(removed)} removed, which the next run makes anew"
    raise Failure(told)


def _check(folders: Sequence[Path]) -> dict[Path, list[Finding]]:
    """Findings by artifact, each told when it is found."""
    show, total, done = _reporter(), sum(map(num_files, folders)), 0
    damaged: dict[Path, list[Finding]] = {}

    def step() -> None:
        nonlocal done
        done += 1
        show(done, total)

    for folder in folders:
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


def _remedy(folder: Path, findings: Sequence[Finding]) -> str:
    if all(finding.is_extra for finding in findings):
        return "Nothing reads it; move it elsewhere, or delete it with --remove."
    stage, scene = place_of(folder)
    task = _TASKS.get(stage, stage.title().replace("_", ""))
    if stage == ROOMS_STAGE:
        task = "GenerateRoom" if scene else "GenerateRooms"
    of_scene = f" --scene {scene}" if scene else ""
    return f"Remove the artifact (--remove), then run {task}{of_scene} again, or what needs it."


def _remove(damaged: dict[Path, list[Finding]]) -> list[Path]:
    """Delete damaged artifacts, and files of none; what was deleted."""
    removed = []
    for folder, findings in damaged.items():
        if all(finding.is_extra for finding in findings):
            for finding in findings:
                finding.path.unlink()
        elif not folder.exists() or remove(folder):  # A room may have gone with all rooms.
            removed.append(folder)
        else:
            print(f"{folder}: kept, a process is making it now")
    return removed


VERIFY = Command("check every artifact's files against their checksums", _add_arguments, _verify)
