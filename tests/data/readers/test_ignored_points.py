"""Points that a dataset leaves out of evaluation, and which version its labels are of."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.artifacts.scene import FILE, read_ground_truth, write_scene
from data.artifacts.store import ArtifactKey, writing
from data.errors import ConfigError, DataError
from data.readers.scannetpp import read_ignored_vertices, read_scan, scene_identity
from data.types import GroundTruth
from pipeline.plan import load_plan
from stages.configs import PrepareConfig
from stages.evaluation.evaluate import EvaluationScene, run
from stages.scene import prepare_scene
from tests.stages.evaluation.test_evaluate import make_scene, mask
from tests.support.scans.scannetpp_tree import ANNOTATION, SCENE, room, write_tree
from tests.support.tiny_set import write_set

MASK = "scans/mesh_aligned_0.05_mask.txt"


def written(path: Path, content: str) -> list[int]:
    path.write_text(content)
    return [int(v) for v in read_ignored_vertices(path, 100)]


def test_the_file_holds_numbers_in_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "mask.txt"
    assert read_ignored_vertices(path, 100).tolist() == []  # not there
    assert written(path, "") == [] and written(path, "\n \n") == []
    assert written(path, "7\n3\n99\n") == [3, 7, 99]
    assert written(path, "0 7\r\n7\n") == [0, 7]
    assert written(path, "1.200000000000000000e+01\n") == [12]  # as numpy.savetxt writes it
    assert read_ignored_vertices(path, 100).dtype == np.int32


@pytest.mark.parametrize("content", ["100", "-1", "1.5", "nan", "inf", "x", "1,2", "3 \0"])
def test_other_things_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mask.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="mask.txt.*0 to 99"):
        read_ignored_vertices(path, 100)


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_any_bytes_are_vertices_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "mask.txt"
    path.write_bytes(content)
    try:
        found = read_ignored_vertices(path, 50)
        assert ((found >= 0) & (found < 50)).all()
    except DataError as error:
        assert str(path) in str(error)


def test_the_reader_takes_them_along(root: Path) -> None:
    before = scene_identity(root, SCENE, "fisheye")
    assert read_scan(root, SCENE, "fisheye").truth.ignored_ids.tolist() == []
    (root / "data" / SCENE / MASK).write_text("5\n2\n")
    assert scene_identity(root, SCENE, "fisheye") != before
    scan = read_scan(root, SCENE, "fisheye")
    assert scan.truth.ignored_ids.tolist() == [2, 5]
    (root / "data" / SCENE / MASK).write_text(f"{len(room()[0].cloud)}\n")
    with pytest.raises(DataError, match="mask.txt"):
        read_scan(root, SCENE, "fisheye")


def ignoring(scene: EvaluationScene, *points: int) -> EvaluationScene:
    ids = np.array(points, np.int32)
    return replace(scene, ground_truth=replace(scene.ground_truth, ignored_ids=ids))


def test_ignored_points_count_nowhere() -> None:
    # The bed is 0-3, predicted 0 and 1; the pillow 3-7, not predicted; the toilet is absent,
    # and fusion predicts point 11 for it.
    bed, both, toilet, pillow = run([ignoring(make_scene(), 1, 2, 7, 11)]).rows
    assert (bed.scores["student"].intersection, bed.scores["student"].union) == (1, 2)
    assert bed.scores["student"].predicted_points == 1 and bed.truth_points == 2
    assert (both.scores["student"].intersection, both.scores["student"].union) == (5, 5)
    assert (pillow.scores["student"].intersection, pillow.scores["student"].union) == (0, 4)
    fused = toilet.scores["fusion_only"]
    assert (fused.intersection, fused.union, fused.predicted_points) == (0, 0, 0)


def test_evaluation_equals_that_of_a_scan_without_them() -> None:
    scene, ignored = make_scene(), [0, 4, 11]
    kept = np.setdiff1d(np.arange(scene.ground_truth.num_points), ignored)
    truth = scene.ground_truth
    members = [np.flatnonzero(truth.mask([i])[kept]) for i in truth.object_ids]
    smaller = GroundTruth(
        truth.object_ids,
        truth.labels,
        np.concatenate(members).astype(np.int32),
        np.cumsum([0, *map(len, members)]),
        len(kept),
    )
    masks = {s: {p: m[kept] for p, m in found.items()} for s, found in scene.masks.items()}
    expected = run([replace(scene, ground_truth=smaller, masks=masks)])
    assert run([ignoring(scene, *ignored)]) == expected


def test_counting_leaves_the_mask_itself_alone() -> None:
    truth = ignoring(make_scene(), 1).ground_truth
    given_mask = mask(0, 1)
    assert truth.counted(given_mask).sum() == 1 and given_mask.sum() == 2
    with pytest.raises(ValueError, match="shape"):
        truth.counted(np.zeros(3, bool))


def test_labels_keep_their_version_and_ignored_points(root: Path, tmp_path: Path) -> None:
    (root / "data" / SCENE / MASK).write_text("5\n2\n")
    scan = read_scan(root, SCENE, "fisheye")
    annotation = (root / "data" / SCENE / ANNOTATION).read_bytes()
    assert scan.annotation_sha256 == hashlib.sha256(annotation).hexdigest()
    prepared = prepare_scene.run(scan, PrepareConfig(camera="fisheye", max_views=1))
    key = ArtifactKey.make(tmp_path, "prepare_scene", 1, {}, {})
    with writing(key) as folder:
        assert folder is not None
        write_scene(folder, **vars(prepared))
    with h5py.File(key.folder / FILE) as file:
        assert file["ground_truth"].attrs["annotation_sha256"] == scan.annotation_sha256
    assert read_ground_truth(key.folder).ignored_ids.tolist() == [2, 5]


def test_a_version_is_part_of_every_fingerprint(tmp_path: Path) -> None:
    write_tree(tmp_path / "rooms")
    splits = {"train": "train", "val": "val"}
    (tmp_path / "rooms" / "splits" / "val.txt").write_text("00000000bb\n")
    keys = []
    for version in ("", "v1", "v2"):
        content = {"data_root": str(tmp_path / "rooms"), "splits": splits, "version": version}
        plan = load_plan(write_set(tmp_path / f"set{version}.yaml", **content))
        assert plan.scene_set.title == f"set{version} {version}".strip()
        keys.append(
            [
                plan.key("prepare_scene", SCENE),
                plan.key("link_points", SCENE),
                plan.key("prepare_prompts"),
                plan.key("fuse_masks", SCENE),
            ]
        )
    for stage in zip(*keys):
        assert len({key.fingerprint for key in stage}) == 3
    assert keys[1][0].inputs["scan"] == f"v1:{keys[0][0].inputs['scan']}"


@pytest.mark.parametrize(
    ("content", "hint"),
    [({"data_root": "x", "version": "v3"}, "version"), ({"version": "v1"}, "generated")],
)
def test_other_versions_are_refused(tmp_path: Path, content: dict[str, str], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        load_plan(write_set(tmp_path / "set.yaml", **content))
