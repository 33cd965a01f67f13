"""Commands gc and verify: delete artifacts that no run needs, and check the files of the rest."""

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
        raise ArgumentTypeError(f"expected a whole number of days of 0 or more, found {text!r}")
    return int(text)


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scene-set",
        required=True,
        help="name of a file in configs/scene_sets, or path of a YAML file",
    )
    add("--dry-run", action="store_true", help="only print what would be freed")
    add(
        "--keep-days",
        type=_days,
        default=7,
        metavar="N",
        help="keep artifacts of the last N days (default: 7)",
    )


def _collect(options: Namespace) -> None:
    """Free unneeded artifacts, stage by stage.

    Nothing is freed while an artifact of the set is being made, because its inputs are recorded
    only when it is finished; a run that starts during gc makes missing artifacts anew. Raises
    UserError for a set without output, Failure while a run is going on.
    """
    from pipeline.plan import output_root
    from pipeline.scene_sets import load_scene_set

    root = output_root()
    folder = root / load_scene_set(options.scene_set).name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected artifacts of scene set {options.scene_set}, found none. Set "
            "MLLM3D_OUTPUT if its output lies elsewhere."
        )
    own = list(stored_artifacts(folder, stage_folders()))
    _refuse_running(own, options.dry_run)
    other_folders = [path for path in root.iterdir() if path.is_dir() and path != folder]
    all_artifacts = own + [
        each for path in other_folders for each in stored_artifacts(path, stage_folders())
    ]
    named = named_results(root)
    since = time.time() - options.keep_days * _DAY
    keep = reachable_artifacts(all_artifacts, named.values(), since)
    _warn_lost(named, all_artifacts, folder)
    if not options.dry_run:
        for path in list(leftovers(folder)):
            shutil.rmtree(path)
    sizes = {each.folder: _bytes(each.folder) for each in own}
    freed = _free([each for each in own if each.folder not in keep], options.dry_run)
    _print_freed(freed, sizes, options.dry_run)
    kept_folders = [each.folder for each in own if each.folder in keep]
    for path in task_log.outdated(folder, {path_kept.name for path_kept in kept_folders}, since):
        if not options.dry_run:
            path.unlink()
    kept_size = _mb(sum(sizes[path] for path in kept_folders))
    line = f"kept: {len(kept_folders)} artifacts, {kept_size}, from which the "
    line += f"results named by {sum(folder in path.parents for path in named)} pointers, "
    print(f"{line}or artifacts of the last {options.keep_days} days, were made")
    if os.environ.get(CACHE_VARIABLE):
        print(f"{os.environ[CACHE_VARIABLE]}: unchanged; gc frees nothing in object stores")


def _refuse_running(own: Sequence[StoredArtifact], is_dry: bool) -> None:
    locked = [each.folder for each in own if is_locked(each.folder)]
    if not locked:
        return
    message = f"{locked[0]} is being made now"
    if is_dry:
        print(f"{message}; nothing will be freed before it is finished")
        return
    raise Failure(
        f"{message}, and its inputs are recorded when it is finished. Nothing was freed; run gc "
        "again then."
    )


def _warn_lost(
    named: dict[Path, str], all_artifacts: Sequence[StoredArtifact], folder: Path
) -> None:
    identities = {name for each in all_artifacts for name in each.names}
    for path, name in named.items():
        if folder in path.parents and name not in identities:
            print(f"{path}: names results that were removed ({name[:12]}); it keeps nothing")


def _free(unneeded: Sequence[StoredArtifact], is_dry: bool) -> list[StoredArtifact]:
    """Remove the artifacts, or only list them; returns the removed ones."""
    freed = []
    for each in unneeded:
        if is_dry or remove(each.folder):
            freed.append(each)
        else:
            print(f"{each.folder}: kept: a process is making it now")
    return freed


def _print_freed(freed: Sequence[StoredArtifact], sizes: dict[Path, int], is_dry: bool) -> None:
    for stage in dict.fromkeys(each.stage for each in freed):
        of_stage = [each for each in freed if each.stage == stage]
        size = _mb(sum(sizes[each.folder] for each in of_stage))
        num_unfinished = sum(not each.is_finished for each in of_stage)
        line = f"{stage}: {len(of_stage)} artifacts, {size}"
        print(f"{line} ({num_unfinished} unfinished)" if num_unfinished else line)
    verb = "would free" if is_dry else "freed"
    print(f"{verb}: {len(freed)} artifacts, {_mb(sum(sizes[each.folder] for each in freed))}")


def _bytes(folder: Path) -> int:
    walked = os.walk(folder)
    return sum(
        os.lstat(os.path.join(at, name)).st_size for at, _, names in walked for name in names
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


GC = Command("delete artifacts that no named or recent run needs", _add_arguments, _collect)


def _add_verify_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("path", nargs="?", help="an artifact, or a folder of artifacts; may be s3://...")
    add(
        "--scene-set",
        default="",
        help="check all artifacts of a scene set: its name, or path of its file",
    )
    add("--scene", default="", help="check artifacts of this scene only")
    add(
        "--remove",
        action="store_true",
        help="delete damaged artifacts, so that a run makes them anew",
    )


def _roots(options: Namespace) -> list[StoragePath]:
    """The folders to check; UserError where none is given or it does not exist."""
    if bool(options.path) == bool(options.scene_set):
        raise UserError(
            "expected either --scene-set or the path of an artifact, found "
            f"{'both' if options.path else 'neither'}"
        )
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
            f"{folder}: expected artifacts of scene set {options.scene_set}, found none. Set "
            "MLLM3D_OUTPUT if its output lies elsewhere."
        )
    return [folder, *remote]


def _below(
    starts: Sequence[StoragePath], scene: str
) -> tuple[list[StoragePath], list[StoragePath]]:
    """Finished and unfinished artifacts, of one scene or of all; UserError where there are none."""
    contents = [
        remote_artifacts_below(each) if isinstance(each, RemoteFolder) else artifacts_below(each)
        for each in starts
    ]
    finished: list[StoragePath] = [folder for each in contents for folder in each.finished]
    unfinished: list[StoragePath] = [folder for each in contents for folder in each.unfinished]
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
    """Print a line for each file that has changed since it was written; Failure if there is any."""
    starts = _roots(options)
    folders, unfinished = _below(starts, options.scene)
    damaged = _check(folders)
    for folder in unfinished:
        print(f"{folder}: unfinished; the next run that needs it continues it or makes it anew")
    findings = sum(map(len, damaged.values()))
    if not findings:
        names = " and ".join(map(str, starts))
        print(f"{names}: {len(folders)} artifacts, all files as they were written")
        return
    removed = _remove(damaged) if options.remove else []
    message = f"{findings} findings in {len(damaged)} of {len(folders)} artifacts"
    if removed:
        message += f"; {len(removed)} removed, which the next run makes anew"
    raise Failure(message)


def _check(folders: Sequence[StoragePath]) -> dict[StoragePath, list[Finding]]:
    """Findings by artifact; each is printed when it is found."""
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
        return "No step reads it; move it elsewhere, or delete it with --remove."
    stage, scene = stage_and_scene_of(folder, stage_folders())
    step = step_of(stage, scene or None)
    task = step.task_name if step is not None else "RunAll"
    of_scene = f" --scene {scene}" if scene else ""
    return (
        f"Remove the artifact (--remove), then run {task}{of_scene} again, or a task that needs it."
    )


def _remove(damaged: dict[StoragePath, list[Finding]]) -> list[StoragePath]:
    """Delete damaged artifacts, and files that belong to none; returns the deleted artifacts."""
    removed: list[StoragePath] = []
    for folder, findings in damaged.items():
        if all(finding.is_extra for finding in findings):
            for finding in findings:
                finding.path.unlink()
        elif isinstance(folder, RemoteFolder):
            (folder / METADATA).unlink()
            folder.remove()
            removed.append(folder)
        elif not folder.exists() or remove(folder):  # A room may have been deleted with all rooms.
            removed.append(folder)
        else:
            print(f"{folder}: kept: a process is making it now")
    return removed


VERIFY = Command(
    "check every artifact's files against their checksums", _add_verify_arguments, _verify
)
