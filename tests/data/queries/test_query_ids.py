"""What ids in query files mean: spaces, categories, and the traps between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.artifacts import prompts as artifact
from data.errors import DataError
from data.queries.classes import read_classes
from data.queries.formats import FORMATS, FormatName
from data.queries.prompts import GroupName, PromptRecord
from stages.configs import PromptsConfig
from stages.queries import prepare_prompts
from tests.support.query_files import write

# No number means the same object in two spaces; 200 is beyond int8.
GROUPS = {
    "scene0000_00": [
        GroupName(0, 5, 200, "bed"),
        GroupName(1, 6, 0, "office chair"),
        GroupName(2, 7, 1, "table"),
        GroupName(3, 8, 2, "chair"),
        GroupName(4, 9, 3, "armchair"),
        GroupName(5, 0, 199, "lamp"),
    ],
    "scene0001_00": [GroupName(0, 1, 4, "lamp"), GroupName(1, 0, 9, "chair")],
}
SCENE, OTHER = GROUPS
SPLITS = {"train": [SCENE, OTHER]}
CLASSES = ["wall", "chair", "table", "bed", "lamp"]


def prepare(
    path: Path, name: FormatName, classes: Any = None, **config: Any
) -> prepare_prompts.PreparedPrompts:
    records: list[PromptRecord] = FORMATS[name].read(path)
    cfg = PromptsConfig(**config)
    return prepare_prompts.run(records, SPLITS, GROUPS.__getitem__, cfg, classes)


def scanrefer(number: int, name: str, scene_id: str = SCENE) -> dict[str, Any]:
    return {
        "scene_id": scene_id,
        "object_id": str(number),
        "object_name": name,
        "ann_id": "0",
        "description": f"the {name} {number}",
        "token": [],
    }


def reason3d(number: int, name: str, scene_id: str = SCENE, kind: str = "scannet") -> Any:
    return {
        "scene_id": scene_id,
        "object_id": number,
        "object_name": name,
        "question": f"Where is {name} {number}?",
        "type": kind,
    }


def targets(prepared: prepare_prompts.PreparedPrompts) -> list[tuple[int, ...]]:
    return [truth.object_ids for truth in prepared.truths]


SCANREFER = [(200, "bed"), (0, "office_chair"), (1, "table"), (2, "chair"), (199, "lamp")]


def test_scanrefer_ids_are_object_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "q.json", [scanrefer(*pair) for pair in SCANREFER])
    prepared = prepare(path, "scanrefer")
    assert prepared.id_space == "objectId"
    assert targets(prepared) == [(200,), (0,), (1,), (2,), (199,)]


def test_one_name_that_would_agree_elsewhere_decides_nothing(tmp_path: Path) -> None:
    """A stated space needs no majority over others, as a decided one does."""
    path = write(tmp_path / "q.json", [scanrefer(2, "chair"), scanrefer(1, "seat")])
    assert targets(prepare(path, "scanrefer")) == [(2,), (1,)]


def test_ids_that_loaders_raised_by_one_are_refused_and_named(tmp_path: Path) -> None:
    rows = [scanrefer(number + 1, name) for number, name in SCANREFER if number != 200]
    path = write(tmp_path / "q.json", rows)
    with pytest.raises(DataError) as caught:
        prepare(path, "scanrefer")
    message = str(caught.value)
    assert "0 of 4 as objectId," in message and "4 of 4 as objectId+1" in message
    prepared = prepare(path, "scanrefer", id_space="objectId+1")
    assert targets(prepared) == [(0,), (1,), (2,), (199,)]


def test_positions_in_a_file_of_object_ids_are_refused(tmp_path: Path) -> None:
    rows = [scanrefer(group.position, group.label) for group in GROUPS[SCENE]]
    path = write(tmp_path / "q.json", rows)
    with pytest.raises(DataError, match="6 of 6 as position"):
        prepare(path, "scanrefer")


def test_ids_in_int8_are_refused_before_they_mean_another_object(tmp_path: Path) -> None:
    path = write(tmp_path / "q.json", [{**scanrefer(200, "bed"), "object_id": 200 - 256}])
    with pytest.raises(DataError, match="a cast to int8 makes an id over 127 negative"):
        prepare(path, "scanrefer")


def test_an_undocumented_space_is_decided_from_names(tmp_path: Path) -> None:
    rows = [
        {"scene_id": SCENE, "question": group.label, "object_id": group.id, "object_name": group[3]}
        for group in GROUPS[SCENE]
    ]
    prepared = prepare(write(tmp_path / "q.json", rows), "reasonseg3d")
    assert prepared.id_space == "id"
    assert targets(prepared) == [(200,), (0,), (1,), (2,), (3,), (199,)]


def test_an_undocumented_space_without_names_must_be_given(tmp_path: Path) -> None:
    row = {"scan_id": SCENE, "utterance": "I want to sleep", "target_id": [[0], [2]]}
    path = write(tmp_path / "q.json", [row])
    with pytest.raises(DataError, match="prompts.id_space"):
        prepare(path, "intent3d")
    assert targets(prepare(path, "intent3d", id_space="objectId")) == [(0, 2)]


def test_queries_of_several_or_no_objects(tmp_path: Path) -> None:
    base = {"scene_id": SCENE, "ann_id": "0", "object_name": "chair"}
    rows = [
        {**base, "object_ids": [2, 3], "eval_type": "mt", "description": "the seats"},
        {**base, "object_ids": [], "eval_type": "zt_wo_d", "description": "the piano"},
    ]
    prepared = prepare(write(tmp_path / "q.json", rows), "multi3drefer")
    assert targets(prepared) == [(2, 3), ()]
    assert [prompt.task for prompt in prepared.prompts["train"]] == ["mt", "zt_wo_d"]
    assert not prepared.lacking


def test_objects_that_no_scene_has_are_all_counted_in_one_error(tmp_path: Path) -> None:
    rows = [scanrefer(2, "chair"), scanrefer(50, "sofa"), scanrefer(60, "sofa", OTHER)]
    with pytest.raises(DataError) as caught:
        prepare(write(tmp_path / "q.json", rows), "scanrefer")
    message = str(caught.value)
    assert "2 records" in message and f"[50] of record 1 in scene {SCENE}" in message
    assert f"[60] of record 2 in scene {OTHER}" in message


def surprise(ids: Any, **more: Any) -> dict[str, Any]:
    text = f"what is {ids}?"
    row = {"scene_id": SCENE, "object_id": ids, "description": text, "question_type": "cs"}
    return {**row, **more}


def test_surprise3d_keeps_every_query_and_reports_what_is_lacking(tmp_path: Path) -> None:
    rows = [surprise(200), surprise(77), surprise([0, 78]), surprise([2, 3])]
    prepared = prepare(write(tmp_path / "q.json", rows), "surprise3d")
    assert targets(prepared) == [(200,), (), (0,), (2, 3)]
    assert len(prepared.prompts["train"]) == 4
    assert prepared.lacking == {f"{SCENE}_0001": (77,), f"{SCENE}_0002": (78,)}
    artifact.write_prompts(
        tmp_path, prepared.prompts, prepared.truths, "objectId", prepared.lacking
    )
    content = json.loads((tmp_path / artifact.TRUTHS_FILE).read_text())
    assert content["lacking"] == {f"{SCENE}_0001": [77], f"{SCENE}_0002": [78]}
    assert len(artifact.read_truths(tmp_path)) == 4


def test_nothing_is_noted_where_nothing_is_lacking(tmp_path: Path) -> None:
    artifact.write_prompts(tmp_path, {}, [], "objectId", {})
    assert set(json.loads((tmp_path / artifact.TRUTHS_FILE).read_text())) == {
        "schema_version",
        "id_space",
        "truths",
    }


def test_surprise3d_names_are_compared_where_there_are_any(tmp_path: Path) -> None:
    """Ids that are lacking say nothing about the space; those that mean others do."""
    right = [surprise(2, object_name="chair"), *(surprise(77, object_name="bed") for _ in "abcdef")]
    assert len(prepare(write(tmp_path / "q.json", right), "surprise3d").lacking) == 6
    wrong = [surprise(g.position, object_name=g.label) for g in GROUPS[SCENE][:4]]
    with pytest.raises(DataError, match="4 of 4 as position"):
        prepare(write(tmp_path / "q.json", wrong), "surprise3d")


def test_a_category_is_no_object(tmp_path: Path) -> None:
    """Class 1 is chair; object 1 is the table, position 1 the office chair."""
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    classes = read_classes(tmp_path / "classes.txt")
    rows = [reason3d(1, "chair"), reason3d(3, "bed"), reason3d(4, "lamp", OTHER)]
    prepared = prepare(write(tmp_path / "q.json", rows), "reason3d", classes)
    assert prepared.id_space == "category"
    assert targets(prepared) == [(2,), (200,), (4,)]


def test_a_category_is_every_instance_by_all_its_labels(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    table = tmp_path / "labels.tsv"
    words = [(1, "wall"), (2, "chair"), (2, "office chair"), (2, "armchair"), (7, "table")]
    words += [(11, "bed"), (35, "lamp"), (90, "piano")]
    lines = [f"{number}\t{word}\t{word}" for number, word in words]
    table.write_text("id\traw_category\tcategory\n" + "\n".join(lines))
    classes = read_classes(tmp_path / "classes.txt", table)
    prepared = prepare(write(tmp_path / "q.json", [reason3d(1, "chair")]), "reason3d", classes)
    assert targets(prepared) == [(0, 2, 3)]


def test_categories_without_a_list_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.json", [reason3d(1, "chair")])
    with pytest.raises(DataError, match="classes: FILE"):
        prepare(path, "reason3d")


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_list_counted_from_another_number_is_refused(tmp_path: Path, shift: int) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    classes = read_classes(tmp_path / "classes.txt")
    rows = [reason3d(k + shift, CLASSES[k]) for k in (1, 2, 3)]
    with pytest.raises(DataError, match=rf"0 of 3 names .* but 3 .* numbered \{-shift:+d}"):
        prepare(write(tmp_path / "q.json", rows), "reason3d", classes)


def test_object_ids_in_place_of_categories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    classes = read_classes(tmp_path / "classes.txt")
    path = write(tmp_path / "q.json", [reason3d(200, "bed"), reason3d(0, "office chair")])
    with pytest.raises(DataError, match=r"record 0: \[200\]"):
        prepare(path, "reason3d", classes)
    path = write(tmp_path / "q.json", [reason3d(0, "office chair"), reason3d(2, "chair")])
    with pytest.raises(DataError, match="0 of 2 names"):
        prepare(path, "reason3d", classes)


def test_a_category_the_scene_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    classes = read_classes(tmp_path / "classes.txt")
    path = write(tmp_path / "q.json", [reason3d(0, "wall")])
    with pytest.raises(DataError, match=r"as category\).*\[0\] of record 0"):
        prepare(path, "reason3d", classes)


def test_queries_about_the_other_dataset_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    classes = read_classes(tmp_path / "classes.txt")
    other = [reason3d(900, "lamp", "8194nk5LbLH_region3", "mp3d")] * 2
    path = write(tmp_path / "q.json", [reason3d(1, "chair"), *other])
    prepared = prepare(path, "reason3d", classes)
    assert prepared.other_datasets == {"mp3d": 2}
    assert targets(prepared) == [(2,)]
    unknown = [reason3d(1, "chair"), reason3d(1, "chair", "scene0099_00")]
    with pytest.raises(DataError, match="scene0099_00"):
        prepare(write(tmp_path / "q.json", unknown), "reason3d", classes)
    with pytest.raises(DataError, match="8194nk5LbLH_region3"):
        prepare(write(tmp_path / "q.json", other), "reason3d", classes)
