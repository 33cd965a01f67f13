"""The tuning split: rooms of its own that change no other, and queries that give nothing away."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from luigi.task import flatten

from data.artifacts.prompts import read_prompts
from data.errors import ConfigError
from data.rooms.ids import room_kind, room_seed
from data.rooms.queries import gather_facts, sample_records
from data.rooms.room import make_room
from data.rooms.scan import scan_room
from data.types import SPLITS, Split
from pipeline.plan import Plan, load_plan
from pipeline.scene_sets import load_scene_set, packaged_sets
from pipeline.steps import STEPS
from pipeline.steps.report import _stage_records
from pipeline.steps.step_inputs import StepInputs
from pipeline.tasks.steps import RunAll, run_step, task_of
from stages.configs import Experiment, GenerateConfig
from stages.scene.generate_rooms import run_room, scene_ids
from tests.data.rooms.test_rooms_queries import all_wordings, as_regex
from tests.support.scans.rooms_fixture import TINY, generate, tree_hashes
from tests.support.tiny_set import ROOMS, TEACHER, write_set

TUNED = TINY.model_copy(update={"tune_rooms": 2})
THREE: dict[str, dict[str, str]] = {
    "splits": {"train": "nvs_sem_train", "val": "nvs_sem_val", "tune": "nvs_sem_tune"},
    "queries": {split: f"queries/{split}.json" for split in SPLITS},
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The same rooms without and with a tuning split."""
    plain, tuned = (tmp_path_factory.mktemp(name) for name in ("plain", "tuned"))
    generate(plain, TINY)
    generate(tuned, TUNED)
    yield plain, tuned


def of_rooms(root: Path, names: list[str]) -> dict[str, str]:
    """Hashes of all files of some rooms."""
    hashes = tree_hashes(root)
    return {path: hashes[path] for path in hashes if any(name in path for name in names)}


def test_tuning_rooms_have_ids_and_seeds_of_their_own() -> None:
    wanted = [hashlib.sha256(f"room/3/tune/{k}".encode()).hexdigest()[:10] for k in (0, 1)]
    assert scene_ids(TUNED, "tune") == wanted
    assert scene_ids(TINY, "tune") == []
    many = GenerateConfig(train_rooms=300, val_rooms=300, tune_rooms=300)
    names = [name for split in SPLITS for name in scene_ids(many, split)]
    assert len(set(names)) == 900
    seeds: dict[Split, tuple[int, int, int]] = {s: room_seed(3, s, 5) for s in SPLITS}
    assert seeds == {"train": (3, 0, 5), "val": (3, 1, 5), "tune": (3, 4, 5)}


def test_other_rooms_have_the_same_bytes_with_and_without_tuning_rooms(
    roots: tuple[Path, Path],
) -> None:
    plain, tuned = roots
    names = [*scene_ids(TINY, "train"), *scene_ids(TINY, "val")]
    before = of_rooms(plain, names)
    assert len(before) > 20 and of_rooms(tuned, names) == before
    for split in ("train", "val"):
        for path in (f"splits/nvs_sem_{split}.txt", f"queries/{split}.json"):
            assert (plain / path).read_bytes() == (tuned / path).read_bytes()


def test_a_tuning_room_depends_on_seed_and_number_alone(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    other = TINY.model_copy(update={"train_rooms": 5, "val_rooms": 2, "tune_rooms": 9})
    run_room(tmp_path / "same", "tune", 1, other)
    name = scene_ids(TUNED, "tune")[1:]
    wanted = of_rooms(roots[1], name)
    assert len(wanted) > 10 and of_rooms(tmp_path / "same", name) == wanted
    run_room(tmp_path / "seed", "tune", 1, other.model_copy(update={"seed": 4}))
    assert not of_rooms(tmp_path / "seed", name)


def test_the_index_knows_the_tuning_split(roots: tuple[Path, Path]) -> None:
    plain, tuned = roots
    names = scene_ids(TUNED, "tune")
    assert (tuned / "splits/nvs_sem_tune.txt").read_text().split() == names
    records = json.loads((tuned / "queries/tune.json").read_text())
    rooms = [json.loads((tuned / f"queries/rooms/{name}.json").read_text()) for name in names]
    assert records == [*rooms[0], *rooms[1]] and {r["scene_id"] for r in records} == set(names)
    assert not list(plain.rglob("*tune*"))
    for root, rooms_there in ((plain, 2), (tuned, 4)):
        rows = (root / "metadata/semantic_benchmark/map_benchmark.csv").read_text().splitlines()
        assert f"wall,{4 * rooms_there},,None" in rows


def test_only_validation_rooms_are_asked_in_held_out_words() -> None:
    """The same six rooms, every object large in three pictures, as if of each split in turn."""
    forms = [as_regex(text) for wording in all_wordings() for text in wording.held_out]
    held_out, asked = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for number in range(6):
        room = make_room(room_seed(1, "tune", number), room_kind(number), 0.15)
        pixels = [np.full(len(room.objects), 5000)] * 3
        facts = gather_facts(room, scan_room(room), pixels)
        for split in SPLITS:
            for record in sample_records("room", split, facts, ["a", "b", "c"], 10_000, room.seed):
                text = str(record["description"])
                asked[split] += 1
                held_out[split] += any(re.fullmatch(form, text) for form in forms)
    assert min(asked.values()) > 60
    assert held_out["train"] == held_out["tune"] == 0
    assert held_out["val"] > 20


@pytest.mark.parametrize("without", ["splits", "queries"])
def test_splits_and_queries_name_the_same_splits(tmp_path: Path, without: str) -> None:
    content = {key: dict(files) for key, files in THREE.items()}
    del content[without]["tune"]
    path = write_set(tmp_path / "odd.yaml", **content)
    with pytest.raises(ConfigError, match=r"odd\.yaml: splits names .*, but queries names .*"):
        load_scene_set(path)
    content[without]["tune"] = ""
    with pytest.raises(ConfigError, match="Give each split both"):
        load_scene_set(write_set(tmp_path / "odd.yaml", **content))


def test_tuning_rooms_need_a_place_in_the_scene_set(tmp_path: Path) -> None:
    plan = load_plan(write_set(tmp_path / "two.yaml"), "", "generate.tune_rooms=2")
    with pytest.raises(ConfigError, match=r"two\.yaml: generate\.tune_rooms is 2, but .*Add tune"):
        plan.scenes()
    assert load_plan(str(tmp_path / "two.yaml")).scenes("tune") == ()


@pytest.mark.parametrize("rooms", [-1, 1.5, 100_001])
def test_a_wrong_number_of_tuning_rooms_is_refused(rooms: float) -> None:
    with pytest.raises(ConfigError, match="generate.tune_rooms"):
        load_plan("demo", "", f"generate.tune_rooms={rooms}")


def test_packaged_sets_know_their_splits() -> None:
    assert {"demo", "demo_large"} <= set(packaged_sets())
    demo, large = load_plan("demo"), load_plan("demo_large")
    assert [len(demo.scenes(split)) for split in SPLITS] == [12, 6, 0]
    assert [len(large.scenes(split)) for split in SPLITS] == [40, 24, 12]
    assert large.split_of(large.scenes("tune")[3]) == "tune"
    assert large.scenes() == tuple(name for s in SPLITS for name in large.scenes(s))
    assert not set(demo.scenes()) & set(large.scenes())
    own, plus = (load_scene_set(name).config for name in ("own", "scannetpp"))
    assert demo.experiment.fuse == large.experiment.fuse  # What scans need is written once.
    assert demo.scene_set.config["fuse"] == own["fuse"] == plus["fuse"]
    assert plus["prepare"] == {**demo.scene_set.config["prepare"], "max_views": 50}


@pytest.mark.parametrize("name", ["demo", "demo_large"])
def test_clean_rooms_are_those_of_the_scanned_sets(name: str) -> None:
    scanned, clean = load_plan(name), load_plan(f"{name}_clean")
    assert clean.dataset.by_split == scanned.dataset.by_split
    as_clean = scanned.experiment.generate.model_copy(update={"scan": "clean"})
    assert as_clean == clean.experiment.generate != scanned.experiment.generate
    sections = ("generate", "prepare", "fuse")
    scans = {section: getattr(scanned.experiment, section) for section in sections}
    assert clean.experiment.model_copy(update=scans) == scanned.experiment
    assert clean.experiment.fuse == Experiment().fuse != scanned.experiment.fuse


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = write_set(tmp_path / "odd.yaml", settings="scaned")
    with pytest.raises(ConfigError, match="odd.yaml: settings: expected one of scanned, found"):
        load_scene_set(path)


def on_disk(roots: tuple[Path, Path], tmp_path: Path, shared: Split | None = None) -> Plan:
    """The tuned rooms as a dataset on disk, a validation scene listed under ``shared`` too."""
    shutil.copytree(roots[1], tmp_path / "rooms")
    if shared is not None:
        with open(tmp_path / f"rooms/splits/nvs_sem_{shared}.txt", "a") as stream:
            stream.write(scene_ids(TUNED, "val")[0] + "\n")
    root = str(tmp_path / "rooms")
    return load_plan(write_set(tmp_path / "disk.yaml", **THREE, data_root=root))


def test_a_dataset_on_disk_has_a_tuning_split_too(roots: tuple[Path, Path], tmp_path: Path) -> None:
    plan = on_disk(roots, tmp_path)
    assert plan.scenes("tune") == tuple(scene_ids(TUNED, "tune"))
    key = plan.key("prepare_prompts")
    run_step(STEPS["prepare_prompts"], plan, None, "cpu")
    prompts = read_prompts(key.folder)
    assert list(prompts) == list(SPLITS)
    asked = json.loads((roots[1] / "queries/tune.json").read_text())
    assert [p.text for p in prompts["tune"]] == [record["description"] for record in asked]


@pytest.mark.parametrize("shared", ["train", "tune"])
def test_no_two_splits_share_a_scene(
    roots: tuple[Path, Path], tmp_path: Path, shared: Split
) -> None:
    one, two = ("train", "val") if shared == "train" else ("val", "tune")
    with pytest.raises(ConfigError, match=f"1 scenes are in both splits {one} and {two}"):
        on_disk(roots, tmp_path, shared).scenes()


def test_a_run_measures_on_validation_and_trains_on_training_scenes_alone(tmp_path: Path) -> None:
    rooms = {**ROOMS, "tune_rooms": 2}
    path = write_set(tmp_path / "three.yaml", **THREE, config={"generate": rooms})
    plan = load_plan(path, "", "teacher.name=oracle")
    assert len(plan.scenes("tune")) == 2
    assert {name for name in plan.student().inputs if name.startswith("labels ")} == {
        f"labels {scene}" for scene in plan.scenes("train")
    }
    measured = {name.split()[-1] for name in plan.key("evaluate").inputs} - {"prompts"}
    assert measured == set(plan.scenes("val"))


def needed(task: Any) -> set[tuple[str, str]]:
    """(Stage, scene) of a task and of all that it needs, whether done or not."""
    own = {(task.task_family, getattr(task, "scene", None) or "")}
    return own.union(*(needed(other) for other in flatten(task.requires())))


def test_a_run_makes_tuning_rooms_and_leaves_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"generate": {**ROOMS, "tune_rooms": 2}, "teacher": TEACHER}
    path = write_set(tmp_path / "three.yaml", **THREE, config=config)
    plan = load_plan(path)
    stages = {
        (stage, plan.split_of(scene)) for stage, scene in needed(RunAll(scene_set=path)) if scene
    }
    assert {stage for stage, split in stages if split == "tune"} == {"GenerateRoom"}
    assert {"LinkPoints", "RunTeacher", "FuseMasks"} <= {s for s, split in stages if split == "val"}
    asked = {
        plan.split_of(s)
        for stage, s in needed(task_of(STEPS["run_teacher"])(scene_set=path))
        if stage == "RunTeacher" and s
    }
    assert asked == set(SPLITS), "but for the asking all stages work on them"
    done = {"wall_seconds": 1.0, "peak_memory_mb": 1.0, "fingerprint": "f"}
    monkeypatch.setattr("pipeline.steps.step_inputs.read_metadata", lambda folder: done)
    inputs = StepInputs(plan, STEPS["report"], None, "cpu")
    counts = {record.stage: record.count for record in _stage_records(inputs)}
    assert (counts["generate_rooms"], counts["prepare_scene"], counts["run_teacher"]) == (5, 3, 3)
    assert counts["answer_questions"] == len(plan.scenes("val")), "all that ran is told of"
    assert "oracle_labels" not in counts and "find_rooms" not in counts
