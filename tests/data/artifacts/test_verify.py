"""Every file of every artifact of a finished run damaged, one at a time: each is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.artifacts.cleanup import artifacts_below
from data.artifacts.prompts import read_prompts, read_truths
from data.artifacts.store import METADATA, ArtifactKey, is_complete, read_metadata, writing
from data.artifacts.student import read_model
from data.errors import ArtifactError
from pipeline.__main__ import main
from tests.support.cli import environment, luigi, tasks_done
from tests.support.finished_run import FinishedRun

STAGES = {
    "generate_rooms",
    "prepare_scene",
    "prepare_prompts",
    "link_points",
    "run_teacher",
    "fuse_masks",
    "train_student",
    "predict_masks",
    "answer_questions",
    "evaluate_teacher_2d",
    "evaluate",
    "report",
}


@dataclass(frozen=True)
class Run:
    """A finished run: its working folder and its scene set."""

    folder: Path
    scene_set: str

    @property
    def results(self) -> Path:
        return self.folder / "output" / "tiny"


@pytest.fixture(scope="module")
def run(smallest_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of as little as there can be; every test leaves it as it is."""
    folder = tmp_path_factory.mktemp("verify")
    return Run(folder, smallest_run.copy(folder))


@pytest.fixture
def ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run, where commands look for it."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(run.folder / "output"))
    return run


@pytest.fixture
def copied(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run, to break."""
    shutil.copytree(run.folder, tmp_path / "copied")
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "copied" / "output"))
    return Run(tmp_path / "copied", str(tmp_path / "copied" / "tiny.yaml"))


def key_of(folder: Path) -> ArtifactKey:
    """The key that a task would look for in a folder."""
    content = read_metadata(folder)
    assert content is not None
    return ArtifactKey(folder, content["fingerprint"], content["stage"], content["schema_version"])


def files_by_artifact(results: Path) -> dict[Path, list[Path]]:
    """All files on disk below ``results`` by the innermost artifact they lie in, but locks."""
    folders = {path.parent for path in results.rglob(METADATA)}
    files: dict[Path, list[Path]] = {folder: [] for folder in folders}
    for path in sorted(results.rglob("*")):
        owner = next((up for up in path.parents if up in folders), None)
        if path.is_file() and path.suffix != ".lock" and owner is not None:
            files[owner].append(path)
    return files


@contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    """Other content in a file's place, with its old times; put back after."""
    good, stat = path.read_bytes(), path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(good)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flipped(content: bytes, place: int) -> bytes:
    """One bit of one byte changed."""
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def verify(*arguments: str) -> int:
    return main(["verify", *arguments])


def test_a_finished_run_is_whole(ours: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--scene-set", ours.scene_set) == 0
    told = capsys.readouterr().out
    folders = files_by_artifact(ours.results)
    assert f"{len(folders)} artifacts, all files as they were written" in told
    assert {path.relative_to(ours.results).parts[0] for path in folders} == STAGES


def test_a_flipped_byte_is_named_in_every_file_of_every_artifact(
    ours: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 0
    for folder, files in files_by_artifact(ours.results).items():
        for path in files:
            good = path.read_bytes()
            if not good:
                continue
            with damaged(path, flipped(good, len(good) * 2 // 3)):
                assert verify(str(folder)) == 1
                told = capsys.readouterr().out
                assert f"{path}: damaged" in told and told.count(": damaged") == 1
            count += 1
    assert count > 100
    assert verify("--scene-set", ours.scene_set) == 0


def test_a_flipped_byte_is_found_wherever_in_the_metadata_it_is(
    ours: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (ours.results / "evaluate").glob("[!.]*")
    path = folder / METADATA
    good = path.read_bytes()
    for place in range(0, len(good)):
        with damaged(path, flipped(good, place)):
            assert verify(str(folder)) == 1
            assert f"{path}: damaged" in capsys.readouterr().out


def test_a_truncated_file_is_named_and_its_stage_is_not_complete(
    ours: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, files in files_by_artifact(ours.results).items():
        key = key_of(folder)
        assert is_complete(key)
        for path in files:
            good = path.read_bytes()
            if not good:
                continue
            with damaged(path, good[: len(good) // 2]):
                assert not is_complete(key)
                assert verify(str(folder)) == 1
                assert f"{path}: damaged" in capsys.readouterr().out
        assert is_complete(key)


def test_missing_and_unlisted_files_are_named(
    copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (student,) = (copied.results / "train_student").glob("[!.]*")
    (student / "config.yaml").unlink()
    (report,) = (copied.results / "report").glob("[!.]*")
    (report / "notes.txt").write_text("mine")
    rooms = sorted((copied.results / "generate_rooms").glob("*/data/[!.]*"))
    (rooms[0] / METADATA).unlink()
    assert verify("--scene-set", copied.scene_set) == 1
    captured = capsys.readouterr()
    told = captured.out.splitlines()
    named = [line for line in told if not line.startswith(" ")]
    assert named == [
        f"{rooms[0] / METADATA}: missing",
        f"{report / 'notes.txt'}: not listed in metadata.json",
        f"{student / 'config.yaml'}: missing",
    ]
    assert "run TrainStudent again" in captured.out and "run GenerateRooms again" in captured.out
    assert "3 findings in 3 of" in captured.err


def test_one_scene_alone(copied: Run, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = sorted((copied.results / "prepare_scene").iterdir())
    (path,) = one.glob("[!.]*/scene.h5")
    path.write_bytes(flipped(path.read_bytes(), 9))
    assert verify("--scene-set", copied.scene_set, "--scene", other.name) == 0
    assert verify("--scene-set", copied.scene_set, "--scene", one.name) == 1
    assert f"run PrepareScene --scene {one.name} again" in capsys.readouterr().out


def test_a_truncated_file_is_made_again(copied: Run) -> None:
    (model,) = (copied.results / "train_student").glob("[!.]*/model.safetensors")
    good = model.read_bytes()
    model.write_bytes(good[:-1])
    again = luigi(copied.folder, "TrainStudent", "--scene-set", copied.scene_set)
    assert again.returncode == 0 and set(tasks_done(again.stdout)) == {"TrainStudent"}
    assert model.read_bytes() == good and verify("--scene-set", copied.scene_set) == 0


def test_a_flipped_byte_is_refused_and_once_removed_made_again(
    copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (model,) = (copied.results / "train_student").glob("[!.]*/model.safetensors")
    good = model.read_bytes()
    model.write_bytes(flipped(good, len(good) - 5))
    with pytest.raises(ArtifactError, match="model.safetensors.*verify .* --remove"):
        read_model(model.parent)
    assert verify("--scene-set", copied.scene_set, "--remove") == 1
    assert "1 removed" in capsys.readouterr().err and not model.parent.exists()
    again = luigi(copied.folder, "TrainStudent", "--scene-set", copied.scene_set)
    assert again.returncode == 0 and set(tasks_done(again.stdout)) == {"TrainStudent"}
    assert model.read_bytes() == good and verify("--scene-set", copied.scene_set) == 0


def test_a_damaged_room_is_removed_alone_and_made_again(copied: Run) -> None:
    rooms = sorted((copied.results / "generate_rooms").glob("*/data/[!.]*"))
    mesh = rooms[1] / "scans" / "mesh_aligned_0.05.ply"
    good = mesh.read_bytes()
    mesh.write_bytes(flipped(good, len(good) // 2))
    assert verify("--scene-set", copied.scene_set, "--remove") == 1
    assert rooms[0].exists() and not rooms[1].exists()
    again = luigi(copied.folder, "GenerateRooms", "--scene-set", copied.scene_set)
    assert again.returncode == 0, again.stdout
    assert tasks_done(again.stdout) == {"GenerateRoom": 1, "GenerateRooms": 1}
    assert mesh.read_bytes() == good and verify("--scene-set", copied.scene_set) == 0


def test_readers_refuse_a_flipped_byte_that_is_still_json(copied: Run) -> None:
    (path,) = (copied.results / "prepare_prompts").glob("*/prompts.json")
    before = read_prompts(path.parent)
    text = path.read_text()
    place = text.index('"text": "') + len('"text": "')
    path.write_text(text[:place] + "#" + text[place + 1 :])
    assert before and read_metadata(path.parent)
    for read in (read_prompts, read_truths):
        with pytest.raises(ArtifactError, match="prompts.json.*PreparePrompts"):
            read(path.parent)


def test_unfinished_work_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path))
    key = ArtifactKey.make(tmp_path / "demo", "fuse_masks", 1, {}, {}, "scene0")
    with pytest.raises(KeyError), writing(key) as folder:
        assert folder is not None
        (folder / "half").write_text("x")
        raise KeyError
    assert artifacts_below(tmp_path) == ((), (key.folder,))
    assert verify("--scene-set", "demo") == 0
    assert f"{key.folder}: unfinished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected either"),
        (("--scene-set", "demo", "."), "expected either"),
        (("nowhere",), "nowhere: expected a folder"),
        (("--scene-set", "demo"), "expected artifacts of scene set demo, found none"),
        (("--scene-set", "dmo"), "no scene set 'dmo'"),
        ((".",), "found none"),
    ],
)
def test_wrong_parameters(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert verify(*arguments) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_an_unknown_scene_is_refused(ours: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--scene-set", ours.scene_set, "--scene", "none") == 2
    assert "no artifact of scene 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["verify"], ["gc", "--dry-run"]])
def test_neither_command_imports_what_is_heavy(run: Run, command: list[str]) -> None:
    code = (
        "import sys; from pipeline.__main__ import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'numpy', 'h5py', 'zarr'} & set(sys.modules))); sys.exit(code)"
    )
    line = [sys.executable, "-c", code, *command, "--scene-set", run.scene_set]
    env = environment(run.folder / "output")
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr
