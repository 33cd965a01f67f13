"""A disk that fills up: one clear error, nothing half-written taken for whole, and on it goes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.artifacts.cleanup import artifacts_below
from data.errors import ConfigError, UserError
from pipeline.process.full_disk import explained
from tests.support.cli import command, environment
from tests.support.finished_run import LABELS_MADE, ROOMS_MADE, SCENES_MADE, FinishedRun
from tests.support.tiny_set import write_set
from tests.support.warm import forker

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; the test is skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(line, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system takes a privilege; a file size limit is tried as well")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def run_in(folder: Path, output: Path, limit: int | None, *arguments: str) -> tuple[int, str]:
    """Luigi's command with files of at most ``limit`` bytes; exit code and what was printed."""
    env = {**environment(output), "PYTHONDONTWRITEBYTECODE": "1"}
    done = forker().run(command(*arguments), folder, env, limit)
    return done.returncode, done.stdout


def check_told(code: int, printed: str, output: Path) -> None:
    """One clear error, no traceback, and no artifact that passes for a finished one."""
    assert code == 30, printed
    error, _, summary = printed.partition("\nfailed:\n")
    assert "Traceback" not in printed and error.count("no space left") == 1
    assert summary.count("no space left") == 1
    assert "set MLLM3D_OUTPUT" in printed and "needs" in printed and str(output) in printed


def test_a_full_disk_is_told_and_once_freed_the_run_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml")
    output, ballast = small_disk / "output", small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))
    line = ("GenerateRoom", "--scene-set", scene_set, "--scene", room_of(scene_set))
    code, printed = run_in(tmp_path, output, None, *line)
    check_told(code, printed, output)
    assert not artifacts_below(output).finished
    ballast.unlink()
    code, printed = run_in(tmp_path, output, None, *line)
    assert code == 0, printed
    assert len(artifacts_below(output).finished) == 1


def room_of(scene_set: str) -> str:
    from pipeline.plan import load_plan

    return load_plan(scene_set).scenes("val")[0]


@pytest.mark.parametrize(
    ("task", "limit", "made"),
    [
        ("PrepareScene", 20_000, ROOMS_MADE),
        ("RunTeacher", 300, SCENES_MADE),
        ("TrainStudent", 10_000, LABELS_MADE),
    ],
)
def test_every_kind_of_file_that_cannot_grow_is_told(
    task: str, limit: int, made: tuple[str, ...], tiny_run: FinishedRun, tmp_path: Path
) -> None:
    """HDF5, Zarr and torch meet the limit, each with an error of its own."""
    scene_set = write_set(tmp_path / "tiny.yaml")
    output = tmp_path / "output"
    tiny_run.copy_stages(tmp_path, made)
    finished = artifacts_below(output).finished
    scene = () if task == "TrainStudent" else ("--scene", room_of(scene_set))
    code, printed = run_in(tmp_path, output, limit, task, "--scene-set", scene_set, *scene)
    check_told(code, printed, output)
    assert artifacts_below(output).finished == finished
    code, printed = run_in(tmp_path, output, None, task, "--scene-set", scene_set, *scene)
    assert code == 0, printed
    assert len(artifacts_below(output).finished) == len(finished) + 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError("Can't write data (file write failed: errno = 28, error message = '...')"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_errors_that_a_full_disk_causes(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left.*MLLM3D_OUTPUT"), explained(tmp_path):
        raise error
    with pytest.raises(UserError, match="no space left"), explained(tmp_path):
        try:
            raise error
        except Exception as first:
            raise ValueError("cannot write") from first


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        ValueError("shape (28,)"),
        RuntimeError("os error 280"),
        ConfigError("No space left on device is not a key"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_stay_what_they_are(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, explained(tmp_path):
        raise error
    assert caught.value is error


def test_what_is_needed_is_what_the_largest_of_its_like_took(tmp_path: Path) -> None:
    for scene, size in {"a": 2_000_000, "b": 1_000_000}.items():
        folder = tmp_path / scene / "0123456789ab"
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(f'{{"files": {{"x": {{"bytes": {size}}}}}}}')
    with pytest.raises(UserError, match="needs about 2.0 MB"), explained(tmp_path, tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
