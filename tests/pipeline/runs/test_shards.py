"""The teacher's cache in shards: who gets which scene, what a shard makes, and a lost one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ConfigError
from pipeline.plan import load_plan
from pipeline.tasks.shards import CacheTeacherMasks, balanced
from tests.support.cli import luigi, tasks_done
from tests.support.tiny_set import ROOMS, STUDENT, write_set

WEIGHTS = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, 50), max_size=30)


def test_the_heaviest_go_first_to_the_lightest_shard() -> None:
    weights = {"a": 3, "b": 9, "c": 4, "d": 4, "e": 2}
    # b (9) to 0; c, d (4, 4) to 1; a (3) to 1, which has 8; e (2) to 0, which has 9.
    assert balanced(weights, 2) == [["b", "e"], ["a", "c", "d"]]
    assert balanced(weights, 1) == [list(weights)]
    assert balanced({}, 3) == [[], [], []]


@given(WEIGHTS, st.integers(1, 8))
def test_every_scene_is_in_one_shard_and_loads_differ_by_one_scene_at_most(
    weights: dict[str, int], num_shards: int
) -> None:
    shards = balanced(weights, num_shards)
    assert len(shards) == num_shards
    assert sorted(name for shard in shards for name in shard) == sorted(weights)
    loads = [sum(weights[name] for name in shard) for shard in shards]
    assert max(loads) - min(loads) <= max(weights.values(), default=0)
    assert balanced(dict(reversed(weights.items())), num_shards) == [
        [name for name in reversed(weights) if name in shard] for shard in shards
    ]


def tiny(folder: Path) -> str:
    config = {
        "generate": {**ROOMS, "train_rooms": 3, "val_rooms": 2},
        "teacher": {"name": "oracle"},
        "student": STUDENT,
    }
    return write_set(folder / "tiny.yaml", config=config)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with rooms and their queries; only to read."""
    folder = tmp_path_factory.mktemp("rooms")
    run = luigi(folder, "PreparePrompts", "--scene-set", tiny(folder))
    assert run.returncode == 0, run.stdout
    return folder / "output"


def test_shards_fill_all_caches_once_and_a_lost_one_is_run_again(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene_set = tiny(tmp_path)
    shutil.copytree(rooms, tmp_path / "output")
    line = ("CacheTeacherMasks", "--scene-set", scene_set, "--num-shards", "2", "--shard-index")
    first = luigi(tmp_path, *line, "0")
    assert first.returncode == 0, first.stdout
    done = tasks_done(first.stdout)
    assert done["CacheTeacherMasks"] == 1 and done["RunTeacher"] == 0
    caches = tmp_path / "output" / "tiny" / "run_teacher"
    mine = {path.parts[-3] for path in caches.glob("*/*/metadata.json")}
    assert 2 <= len(mine) <= 3
    second = luigi(tmp_path, *line, "1")
    assert second.returncode == 0, second.stdout
    every = {path.parts[-3]: path for path in caches.glob("*/*/metadata.json")}
    assert len(every) == 5
    assert not tasks_done(luigi(tmp_path, *line, "1").stdout)
    lost = sorted(set(every) - mine)[0]
    before = {name: path.stat().st_mtime_ns for name, path in every.items()}
    every[lost].unlink()
    again = luigi(tmp_path, *line, "1")
    assert again.returncode == 0 and tasks_done(again.stdout)["CacheTeacherMasks"] == 1
    after = {path.parts[-3]: path.stat().st_mtime_ns for path in caches.glob("*/*/metadata.json")}
    assert {name for name in after if after[name] != before[name]} == {lost}
    # What shards cached is what RunTeacher would have made.
    rest = luigi(tmp_path, "RunTeacher", "--scene-set", scene_set)
    assert rest.returncode == 0 and tasks_done(rest.stdout)["RunTeacher"] == 0
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    plan = load_plan(scene_set)
    keys = {plan.key("run_teacher", name).fingerprint for name in plan.scenes()}
    assert keys == {json.loads(path.read_text())["fingerprint"] for path in every.values()}


def test_a_broken_scene_fails_alone(rooms: Path, tmp_path: Path) -> None:
    scene_set = tiny(tmp_path)
    shutil.copytree(rooms, tmp_path / "output")
    (mesh,) = list((tmp_path / "output").rglob("mesh_aligned_0.05.ply"))[:1]
    size = mesh.stat().st_size
    mesh.write_bytes(mesh.read_bytes()[:200] + bytes(size - 200))
    run = luigi(tmp_path, "CacheTeacherMasks", "--scene-set", scene_set)
    assert run.returncode == 30 and "1 of 5 scenes failed" in run.stdout
    assert mesh.name in run.stdout and "Traceback" not in run.stdout
    assert len(list((tmp_path / "output/tiny/run_teacher").glob("*/*/metadata.json"))) == 4


@pytest.mark.parametrize(("shards", "index"), [(0, 0), (2, 2), (2, -1), (-1, 0)])
def test_a_shard_that_there_is_not_is_refused(tmp_path: Path, shards: int, index: int) -> None:
    with pytest.raises(ConfigError, match="--shard-index"):
        CacheTeacherMasks(scene_set=tiny(tmp_path), num_shards=shards, shard_index=index)
