"""Scene sets whose queries are in another format: read, resolved, and fingerprinted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data.artifacts.prompts import TRUTHS_FILE, read_prompts, read_truths
from data.artifacts.store import is_complete
from data.errors import ConfigError, DataError
from pipeline.plan import Plan, load_plan
from pipeline.steps import STEPS
from pipeline.tasks.steps import run_step
from tests.support.scans.scannetpp_tree import SCENE, write_tree
from tests.support.tiny_set import TEACHER, write_set

OTHER = "00000000bb"
# The objects of tests.support.scans.scannetpp_tree: bed 31, table 30, office chair 5, pillow 2.
TRAIN = [
    {"scene_id": SCENE, "object_id": [31, 2], "description": "to lie on", "question_type": "cs"},
    {"scene_id": SCENE, "object_id": 99, "description": "to play", "question_type": "hi"},
]
VAL = [{"scene_id": OTHER, "object_id": 5, "description": "to sit", "question_type": "abs"}]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two scenes with SURPRISE3D's queries, and an output folder of its own."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    root = tmp_path / "data_root"
    write_tree(root, OTHER)
    write_tree(root, SCENE)
    (root / "splits" / "val.txt").write_text(f"{OTHER}\n")
    queries(root, TRAIN, VAL)
    return root


def queries(root: Path, train: Any, val: Any) -> None:
    (root / "queries").mkdir(exist_ok=True)
    (root / "queries" / "train.json").write_text(json.dumps(train))
    (root / "queries" / "val.json").write_text(json.dumps(val))


def plan_of(data: Path, name: str = "set", **content: Any) -> Plan:
    splits = {"train": "train", "val": "val"}
    path = data.parent / f"{name}.yaml"
    content = {"query_format": "surprise3d", **content}
    return load_plan(write_set(path, data_root=str(data), splits=splits, **content))


def test_another_format_is_read_and_what_scenes_lack_is_told(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(data)
    with caplog.at_level(logging.WARNING):
        run_step(STEPS["prepare_prompts"], plan, None, "cpu")
    folder = plan.key("prepare_prompts").folder
    assert is_complete(plan.key("prepare_prompts"))
    assert [(p.text, p.task) for p in read_prompts(folder)["train"]] == [
        ("to lie on", "cs"),
        ("to play", "hi"),
    ]
    truths = read_truths(folder)
    assert truths[f"{SCENE}_0000"].object_ids == (31, 2)
    assert truths[f"{SCENE}_0001"].object_ids == ()
    assert truths[f"{OTHER}_0000"].object_ids == (5,)
    assert json.loads((folder / TRUTHS_FILE).read_text())["lacking"] == {f"{SCENE}_0001": [99]}
    assert "1 of 3 queries name objects that their scene lacks" in caplog.text


def test_categories_are_resolved_by_the_set_s_list(data: Path) -> None:
    rows = [
        {
            "scene_id": scene_id,
            "object_id": 1,
            "object_name": "chair",
            "question": "Where to sit?",
            "type": "scannet",
        }
        for scene_id in (SCENE, OTHER)
    ]
    queries(data, rows[:1], rows[1:])
    (data / "classes.txt").write_text("bed\nchair\n")
    table = "id\traw_category\tcategory\n4\tbed\tbed\n5\tchair\tchair\n5\toffice chair\tchair\n"
    (data / "labels.tsv").write_text(table)
    lists = {"classes": "classes.txt", "label_table": "labels.tsv"}
    plan = plan_of(data, query_format="reason3d", **lists)
    run_step(STEPS["prepare_prompts"], plan, None, "cpu")
    truths = read_truths(plan.key("prepare_prompts").folder)
    assert truths[f"{SCENE}_0000"].object_ids == truths[f"{OTHER}_0000"].object_ids == (5,)
    without = plan_of(data, "without", query_format="reason3d")
    with pytest.raises(DataError, match="classes: FILE"):
        run_step(STEPS["prepare_prompts"], without, None, "cpu")
    before = plan.key("prepare_prompts").fingerprint
    (data / "labels.tsv").write_text(table + "5\tarmchair\tchair\n")
    assert (
        plan_of(data, query_format="reason3d", **lists).key("prepare_prompts").fingerprint == before
    )  # cached
    again = plan_of(data, "again", query_format="reason3d", **lists)
    assert again.key("prepare_prompts").fingerprint != before
    (data / "labels.tsv").unlink()
    missing = plan_of(data, "missing", query_format="reason3d", **lists)
    assert missing.key("prepare_prompts").fingerprint not in (
        before,
        again.key("prepare_prompts").fingerprint,
    )


def test_a_changed_query_asks_the_teacher_of_its_scene_alone(data: Path) -> None:
    first = plan_of(data)
    before = {scene: first.key("run_teacher", scene).fingerprint for scene in (SCENE, OTHER)}
    queries(data, TRAIN, [{**VAL[0], "description": "to sit on"}])
    second = plan_of(data, "second")
    after = {scene: second.key("run_teacher", scene).fingerprint for scene in (SCENE, OTHER)}
    assert after[SCENE] == before[SCENE] and after[OTHER] != before[OTHER]
    assert second.key("prepare_prompts").fingerprint != first.key("prepare_prompts").fingerprint


def test_a_changed_search_asks_the_teacher_in_all_rooms_of_its_place(data: Path) -> None:
    (data / "places.json").write_text(json.dumps({"home": [SCENE, OTHER]}))

    def teachers(name: str, **content: Any) -> dict[str, str]:
        plan = plan_of(data, name, **content)
        return {scene: plan.key("run_teacher", scene).fingerprint for scene in (SCENE, OTHER)}

    # Train and val are apart, so the place has one room in either, and nothing is asked anew.
    assert teachers("placed", places="places.json") == teachers("apart")
    (data / "splits" / "train.txt").write_text(f"{SCENE}\n{OTHER}\n")
    (data / "splits" / "val.txt").write_text("third\n")
    before = teachers("before", places="places.json")
    queries(data, TRAIN, [{**VAL[0], "description": "to sit on"}])
    after = teachers("after", places="places.json")
    assert not set(before.values()) & set(after.values())
    config = {"teacher": TEACHER, "prompts": {"rooms": {"loft": ["the beam"]}}}
    other_words = teachers("words", places="places.json", config=config)
    assert not set(other_words.values()) & set(after.values())
    assert teachers("alone", config=config) == teachers("plain")


def test_regions_are_rooms_of_their_house_and_broken_places_are_refused(data: Path) -> None:
    (data / "splits" / "train.txt").write_text("x_region1\nx_region4\ny_region0\n")
    plan = plan_of(data, "houses", places="house")
    assert plan.dataset.places["train"] == {"x": ("x_region1", "x_region4"), "y": ("y_region0",)}
    assert plan.dataset.place_rooms("x_region4") == ("x_region1", "x_region4")
    (data / "places.json").write_text("[]")
    with pytest.raises(DataError, match="places.json"):
        plan_of(data, "broken", places="places.json").key("prepare_prompts")


def test_the_scene_is_found_under_the_format_s_own_key(data: Path) -> None:
    row = {"scan_id": SCENE, "utterance": "I want to sleep", "target_id": [31]}
    queries(data, [row], [{**row, "scan_id": OTHER}])
    first = plan_of(data, query_format="intent3d").key("run_teacher", SCENE).fingerprint
    queries(data, [{**row, "utterance": "I am tired"}], [{**row, "scan_id": OTHER}])
    second = plan_of(data, "second", query_format="intent3d")
    assert second.key("run_teacher", SCENE).fingerprint != first


def test_the_format_is_part_of_what_prompts_are_made_from(data: Path) -> None:
    prints = {
        name: plan_of(data, name, query_format=name).key("prepare_prompts").fingerprint
        for name in ("surprise3d", "reasonseg3d", "instruct3d")
    }
    assert len(set(prints.values())) == 3
    config = plan_of(data, "default", query_format="instruct3d").key("prepare_prompts").config
    assert set(config) == {"id_space", "min_agreement", "splits"}


def test_unknown_formats_and_generated_rooms_in_another_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    with pytest.raises(ConfigError, match="query_format"):
        load_plan(write_set(path, data_root=str(tmp_path), query_format="coco"))
    with pytest.raises(ConfigError, match="instruct3d"):
        load_plan(write_set(path, query_format="scanrefer"))
