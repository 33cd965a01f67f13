"""The teacher's masks against ground truth in 2D, on a wall whose cells are counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts.store import ArtifactKey, writing
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherWriter, read_teacher
from data.artifacts.teacher_2d import FILE, Teacher2D, read_teacher_2d, write_teacher_2d
from data.errors import ArtifactError, DataError
from data.types import Array, PromptTruth
from stages.configs import JudgeConfig, TeacherConfig
from stages.evaluation.evaluate import Pairs, summarise_teacher
from stages.network_configs import OracleConfig
from stages.teacher import evaluate_teacher_2d, run_teacher
from stages.teacher.oracle import InstanceRenderer, make_oracle
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.sealed import seal
from tests.support.worlds.judged_world import (
    BIG,
    CELLS,
    SMALL,
    make_answers,
    make_queries,
    make_teacher_2d,
    make_wall,
    summary_of,
)
from tests.support.worlds.teacher_world import finish, with_images, write_cache


@pytest.fixture(scope="module")
def teacher_2d(tmp_path_factory: pytest.TempPathFactory) -> Teacher2D:
    return make_teacher_2d(tmp_path_factory.mktemp("answers"))


def test_cells_are_counted_as_by_hand(teacher_2d: Teacher2D) -> None:
    assert teacher_2d.cells == CELLS**2
    np.testing.assert_array_equal(
        teacher_2d.covered, [[128, 4, 0], [128, 4, 0], [128, 4, 0], [0, 0, 0]]
    )
    np.testing.assert_array_equal(teacher_2d.intersection[:, 0], [128, 96, 0, 0])
    np.testing.assert_array_equal(teacher_2d.union[:, 0], [128, 160, 128, 0])
    assert Pairs.of_query(teacher_2d, 0).iou.tolist() == [1.0, 0.6, 0.0, 0.0]
    np.testing.assert_array_equal(teacher_2d.status[:, 2], [FAILED, MASK, NO_SEG, FAILED])
    assert teacher_2d.predicted_iou[1].tolist() == pytest.approx([0.5, 0, 0.2])


def test_several_targets_are_one_and_a_padded_grid_of_other_cells_fits(tmp_path: Path) -> None:
    scene, truth = make_wall()
    prompts, truths = make_queries()
    truths["q0"] = PromptTruth("q0", (7, 5), "both")
    grid = np.full((64, 64), -8, np.float32)  # the picture covers 64 cells across, 32 down
    for rows, columns in (BIG, SMALL):
        grid[rows, 2 * columns.start : 2 * columns.stop] = 8
    shape = (len(scene.views), 1)
    cache = write_cache(
        tmp_path,
        np.full(shape, MASK, np.uint8),
        np.broadcast_to(grid, (*shape, 64, 64)),
        np.ones(shape, np.float32),
        np.zeros((*shape, 2), np.float32),
        (64.0, 32.0),
    )
    found = evaluate_teacher_2d.run(scene, truth, prompts[:1], truths, cache, JudgeConfig())
    assert found.covered[:, 0].tolist() == [132, 132, 132, 0]
    assert found.intersection[0, 0] == found.union[0, 0] == 132


def test_an_exact_teacher_is_perfect(tmp_path: Path) -> None:
    scene, truth = make_tiny_scene()
    scene = with_images(scene, tmp_path)
    prompts, truths = make_tiny_prompts()
    none = dict.fromkeys(
        ("ragged", "miss", "confuse", "hallucinate", "token_noise", "iou_noise"), 0.0
    )
    cfg = TeacherConfig(oracle=OracleConfig(**none, min_cells=1, stride=2))
    ids = [view.view_id for view in scene.views], [prompt.prompt_id for prompt in prompts]
    writer = TeacherWriter(tmp_path, *ids)
    run_teacher.run(scene, prompts, lambda: make_oracle(scene, truth, prompts, truths, cfg), writer)
    by_id = {t.prompt_id: t for t in truths}
    cache = read_teacher(finish(tmp_path))
    found = evaluate_teacher_2d.run(scene, truth, prompts, by_id, cache, JudgeConfig())
    summary = summary_of(found, *(prompt.task for prompt in prompts))
    assert summary["in_view"] and summary["absent"]
    assert (summary["mask_iou"], summary["presence"], summary["failed"]) == (1.0, 1.0, 0)
    assert summary["belief_auc"] == 1.0


def test_each_view_is_rendered_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rendered: list[str] = []
    masks = InstanceRenderer.masks

    def counted(self: InstanceRenderer, view_id: str) -> Array:
        rendered.append(view_id)
        return masks(self, view_id)

    monkeypatch.setattr(InstanceRenderer, "masks", counted)
    scene, truth = make_wall()
    steps: list[tuple[int, int]] = []
    evaluate_teacher_2d.run(
        scene,
        truth,
        *make_queries(),
        make_answers(tmp_path),
        JudgeConfig(),
        lambda done, total: steps.append((done, total)),
    )
    assert rendered == [view.view_id for view in scene.views]
    assert steps == [(done, 4) for done in range(5)]


def test_a_scene_without_queries_or_objects_is_judged_too(tmp_path: Path) -> None:
    scene, truth = make_wall()
    nothing = np.zeros((4, 0), np.uint8)
    logits, embeddings = np.zeros((4, 0, 8, 8), np.float32), np.zeros((4, 0, 2), np.float32)
    cache = write_cache(tmp_path / "a", nothing, logits, nothing.astype(np.float32), embeddings)
    assert evaluate_teacher_2d.run(scene, truth, [], {}, cache, JudgeConfig()).covered.shape == (
        4,
        0,
    )
    bare = replace(truth, object_ids=(), labels=(), point_ids=truth.point_ids[:0])
    bare = replace(bare, offsets=np.zeros(1, np.int64))
    prompts, truths = make_queries()
    asked = {name: PromptTruth(name, (), "") for name in truths}
    found = evaluate_teacher_2d.run(
        scene, bare, prompts, asked, make_answers(tmp_path / "b"), JudgeConfig()
    )
    assert not found.covered.any() and summarise_teacher([])["mask_iou"] is None


def test_other_views_queries_and_unknown_objects_are_refused(tmp_path: Path) -> None:
    scene, truth = make_wall()
    prompts, truths = make_queries()
    cache, cfg = make_answers(tmp_path), JudgeConfig()
    with pytest.raises(ValueError, match="other queries"):
        evaluate_teacher_2d.run(scene, truth, prompts[:2], truths, cache, cfg)
    fewer = replace(scene, views=scene.views[:2], depths=[np.zeros((1, 1))] * 2)
    with pytest.raises(ValueError, match="other views"):
        evaluate_teacher_2d.run(fewer, truth, prompts, truths, cache, cfg)
    ghost = {**truths, "q1": PromptTruth("q1", (77,), "ghost")}
    with pytest.raises(DataError, match=r"query q1.*expected object ids.*5, 7.*found 77"):
        evaluate_teacher_2d.run(scene, truth, prompts, ghost, cache, cfg)
    with pytest.raises(DataError, match="found none"):
        evaluate_teacher_2d.run(scene, truth, prompts, {}, cache, cfg)


def test_artifact_round_trip_and_damage(tmp_path: Path, teacher_2d: Teacher2D) -> None:
    key = ArtifactKey.make(tmp_path, "evaluate_teacher_2d", 1, {}, {})
    with writing(key) as folder:
        assert folder is not None
        write_teacher_2d(folder, teacher_2d)
    read = read_teacher_2d(key.folder)
    for name, value in vars(teacher_2d).items():
        np.testing.assert_array_equal(getattr(read, name), value)
        assert type(getattr(read, name)) is type(value)
    (tmp_path / FILE).unlink(missing_ok=True)
    write_teacher_2d(tmp_path, teacher_2d)
    assert (tmp_path / FILE).read_bytes() == (key.folder / FILE).read_bytes()
    whole = (key.folder / FILE).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"{}"):
        (key.folder / FILE).write_bytes(damaged)
        seal(key.folder)
        with pytest.raises(ArtifactError, match=r"teacher_2d.npz.*Run EvaluateTeacher2D again"):
            read_teacher_2d(key.folder)
    with pytest.raises(ValueError, match="covered must be int32"):
        replace(teacher_2d, covered=teacher_2d.covered[:2])
    with pytest.raises(ValueError, match="expected 0 <= intersection"):
        replace(teacher_2d, union=teacher_2d.intersection)
