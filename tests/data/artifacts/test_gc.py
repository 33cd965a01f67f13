"""What gc frees and keeps, on hand-made trees."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock

from data.artifacts import cleanup
from data.artifacts.metadata import METADATA
from data.artifacts.store import ArtifactKey, fingerprint, lock_path, writing
from pipeline.__main__ import main
from pipeline.process.task_log import artifact_log
from tests.support.sealed import seal

DAY = 86_400


def made(
    root: Path,
    stage: str,
    inputs: dict[str, ArtifactKey],
    scene: str | None = None,
    age: float = 30,
    name: str = "",
) -> ArtifactKey:
    """A finished artifact of 1000 bytes made from others, ``age`` days old."""
    prints = {key: one.fingerprint for key, one in inputs.items()}
    key = ArtifactKey.make(root, stage, 1, {"name": name}, prints, scene)
    with writing(key) as folder:
        assert folder is not None
        (folder / "content").write_bytes(bytes(1000))
    aged(key, age)
    return key


def aged(key: ArtifactKey, age: float) -> None:
    then = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - age * DAY))
    seal(key.folder, finished=then)


def room(index: ArtifactKey, scene: str) -> ArtifactKey:
    """A generated room, as the plan names and places it."""
    digest = fingerprint("generate_rooms", 1, index.config, {"room": scene})
    folder = index.folder / "data" / scene
    key = ArtifactKey(folder, digest, "generate_rooms", 1, index.config, {"room": scene})
    with writing(key) as writable:
        assert writable is not None
        (writable / "mesh.ply").write_bytes(bytes(500))
    aged(key, 30)
    return key


def point(folder: Path, key: ArtifactKey, name: str = "latest.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"report": key.fingerprint, "folder": str(key.folder), "files": {}}
    (folder / name).write_text(json.dumps(content))


class Tree:
    """A named run (rooms, scene, student, report), and beside it what an earlier one left."""

    def __init__(self, output: Path) -> None:
        self.root = output / "demo"
        self.rooms = made(self.root, "generate_rooms", {}, name="new")
        self.room = room(self.rooms, "0000000000")
        self.scene = made(self.root, "prepare_scene", {"scan": self.room}, "0000000000")
        self.student = made(self.root, "train_student", {"labels": self.scene})
        self.report = made(self.root, "report", {"masks": self.student})
        point(self.root, self.report)
        self.old_rooms = made(self.root, "generate_rooms", {}, name="old")
        self.old_room = room(self.old_rooms, "1111111111")
        self.old_scene = made(self.root, "prepare_scene", {"scan": self.old_room}, "1111111111")
        self.old_student = made(self.root, "train_student", {"labels": self.old_scene}, name="old")
        self.named = [self.rooms, self.room, self.scene, self.student, self.report]
        self.old = [self.old_rooms, self.old_room, self.old_scene, self.old_student]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "output")


def gc(*arguments: str) -> int:
    return main(["gc", "--scene-set", "demo", *arguments])


def there(keys: list[ArtifactKey]) -> list[bool]:
    return [(key.folder / METADATA).exists() for key in keys]


def everything(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_no_named_run_reaches_goes_and_is_told(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.root / "notes").mkdir()
    (tree.root / "notes" / "mine.txt").write_text("mine")
    (tree.root / "report" / "my_figures").mkdir()
    assert gc() == 0
    assert all(there(tree.named)) and not any(there(tree.old))
    assert not tree.old_rooms.folder.exists() and not tree.old_scene.folder.exists()
    assert (tree.root / "notes" / "mine.txt").exists()
    assert (tree.root / "report" / "my_figures").is_dir()
    told = capsys.readouterr().out
    assert "generate_rooms: 1 artifacts" in told and "train_student: 1 artifacts" in told
    assert "freed: 3 artifacts" in told and "kept: 4 artifacts" in told


def test_a_dry_run_says_as_much_and_changes_nothing(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(tree.root)
    assert gc("--dry-run") == 0
    assert "would free: 3 artifacts" in capsys.readouterr().out
    assert everything(tree.root) == before


def test_megabytes_are_those_of_the_files(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    (tree.old_student.folder / "content").write_bytes(bytes(3_000_000))
    assert gc() == 0
    assert "train_student: 1 artifacts, 3.0 MB" in capsys.readouterr().out


@pytest.mark.parametrize("days", [6, 8])
def test_the_young_are_kept_with_all_they_were_made_from(tree: Tree, days: float) -> None:
    aged(tree.old_student, days)
    assert gc() == 0
    assert there(tree.old) == [days == 6] * 4 and all(there(tree.named))


def test_no_days_keep_named_runs_only(tree: Tree) -> None:
    aged(tree.old_student, 0.001)
    assert gc("--keep-days", "0") == 0
    assert not any(there(tree.old)) and all(there(tree.named))


@pytest.mark.parametrize("place", ["finetuned/latest.json", "latest_ablation.json"])
def test_other_pointers_name_runs_too(tree: Tree, place: str) -> None:
    path = tree.root / place
    point(path.parent, tree.old_student, path.name)
    assert gc() == 0
    assert all(there(tree.old)) and all(there(tree.named))


def test_a_student_that_another_sets_run_asks_is_kept(tree: Tree) -> None:
    other = tree.root.with_name("demo_other")
    report = made(other, "report", {"student": tree.old_student})
    point(other / "zero_shot", report)
    assert gc() == 0
    assert all(there(tree.old)) and there([report]) == [True]


def test_one_room_in_use_keeps_the_data_set_it_is_of(tree: Tree) -> None:
    second = room(tree.old_rooms, "2222222222")
    scene = made(tree.root, "prepare_scene", {"scan": second}, "2222222222", age=1)
    (tree.old_room.folder / METADATA).write_text("")  # Damaged, and still of the data set.
    assert gc() == 0
    assert there([tree.old_rooms, tree.old_room, second, scene]) == [True] * 4
    assert there([tree.old_scene, tree.old_student]) == [False] * 2


@pytest.mark.parametrize("age", [1, 30])
def test_the_unfinished_is_kept_while_it_is_young(tree: Tree, age: float) -> None:
    key = ArtifactKey.make(tree.root, "run_teacher", 1, {}, {}, "0000000000")
    key.folder.mkdir(parents=True)
    (key.folder / "half").write_text("x")
    then = time.time() - age * DAY
    for path in (key.folder / "half", key.folder):
        os.utime(path, (then, then))
    assert gc() == 0
    assert key.folder.exists() == (age == 1)


@pytest.mark.parametrize("name", ["old_student", "old_room", "student"])
def test_nothing_is_freed_while_an_artifact_is_being_made(
    tree: Tree, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = everything(tree.root)
    with FileLock(lock_path(getattr(tree, name).folder)):
        assert gc() == 1
        assert "is being made now" in capsys.readouterr().err
        assert gc("--dry-run") == 0
        assert "is being made now" in capsys.readouterr().out
    assert everything(tree.root) == before
    assert gc() == 0 and not any(there(tree.old))


def test_a_locked_artifact_is_not_removed(tree: Tree) -> None:
    with FileLock(lock_path(tree.old_room.folder)):
        assert not cleanup.remove(tree.old_rooms.folder)
    assert all(there(tree.old))
    assert cleanup.remove(tree.old_rooms.folder) and not tree.old_rooms.folder.exists()


def test_a_crash_while_deleting_leaves_no_half_artifact(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path) -> None:
        (path / METADATA).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            gc()
    gone = [key.folder for key in tree.old if not key.folder.exists()]
    left = list(cleanup.leftovers(tree.root))
    assert len(left) == 1 and gone and all(there(tree.named))
    assert gc() == 0
    assert not any(there(tree.old)) and not list(cleanup.leftovers(tree.root))


def test_a_pointer_that_cannot_be_read_stops_it(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.root / "latest.json").write_text('{"rep')
    assert gc() == 2
    told = capsys.readouterr().err
    assert "latest.json: expected a pointer to results" in told and told.count("\n") == 1
    assert all(there(tree.old))


def test_a_pointer_to_results_that_are_gone_is_told(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tree.report.folder)
    assert gc("--dry-run") == 0
    assert "names results that were removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scene-set", "dmo"], "no scene set 'dmo'"),
        (["--scene-set", "demo"], "expected artifacts of scene set demo, found none"),
    ],
)
def test_wrong_parameters(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["gc", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_days_are_a_whole_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gc("--keep-days", "-1")
    assert stopped.value.code == 2 and "--keep-days" in capsys.readouterr().err


def test_logs_go_with_what_they_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path))
    root = tmp_path / "demo"
    kept, gone = (made(root, "link_points", {}, scene="a", name=name) for name in ("kept", "gone"))
    point(root, kept)
    logs = {name: artifact_log(key, "a") for name, key in (("kept", kept), ("gone", gone))}
    logs["young"] = root / "logs/link_points/a-0123456789ab.log"
    for name, path in logs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("done")
        then = time.time() - (1 if name == "young" else 30) * DAY
        os.utime(path, (then, then))
    assert main(["gc", "--scene-set", "demo", "--dry-run"]) == 0
    assert all(path.exists() for path in logs.values())
    assert main(["gc", "--scene-set", "demo"]) == 0
    assert {name for name, path in logs.items() if path.exists()} == {"kept", "young"}
    assert capsys.readouterr().out
