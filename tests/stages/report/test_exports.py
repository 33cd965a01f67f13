"""Answers for other programs, read back by readers that know nothing of this project."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData

from data.artifacts.prompts import write_prompts
from data.artifacts.scene import write_scene
from data.artifacts.soft_masks import Predictions, write_predictions
from data.artifacts.store import writing
from data.geometry.meshes import read_mesh
from data.queries.classes import read_classes
from data.types import Array, Prompt, PromptTruth
from pipeline.__main__ import main
from pipeline.plan import Plan, load_plan
from stages.report.exports import SceneAnswers, class_in, write_benchmark, write_meshes, write_npz
from tests.support.scans.tiny_scene import make_tiny_scene
from tests.support.tiny_set import write_set

TEXTS = ("the office chair", "Where could I sleep? 床", "a chair", "the piano")


def answers_of(masks: Array, scene_id: str = "scene0000_00") -> SceneAnswers:
    count = len(masks)
    names = tuple(f"{scene_id}_{k:04d}" for k in range(count))
    scores = np.linspace(1, 0.25, count, dtype=np.float32)
    return SceneAnswers(scene_id, names, TEXTS[:count], ("referring",) * count, masks, scores)


def masks_of(num_points: int, count: int = 4) -> Array:
    """Random masks, the last one empty."""
    masks = np.random.default_rng(0).random((count, num_points)) < 0.3
    masks[-1] = False
    return masks


def decoded(content: dict[str, object]) -> list[int]:
    """A mask from ScanNet++'s run lengths, one vertex at a time."""
    numbers = [int(word) for word in str(content["counts"]).split()]
    mask = [0] * int(str(content["length"]))
    for k in range(0, len(numbers), 2):
        for vertex in range(numbers[k], numbers[k] + numbers[k + 1]):
            mask[vertex - 1] = 1
    return mask


def benchmark_instances(folder: Path, scene_id: str) -> list[tuple[Array, int, float]]:
    """Instances as the benchmarks' evaluation reads them: three words a line, masks by path."""
    instances = []
    for line in (folder / f"{scene_id}.txt").read_text().splitlines():
        name, label, confidence = line.split(" ")
        assert not Path(name).is_absolute() and name.startswith("predicted_masks/")
        mask = np.loadtxt(folder / name, dtype=np.int32) != 0
        instances.append((mask, int(label), float(confidence)))
    return instances


def test_meshes_hold_the_scan_and_the_answer(tmp_path: Path) -> None:
    scene, _ = make_tiny_scene(spacing=0.5)
    masks = masks_of(len(scene.cloud))
    paths = write_meshes(tmp_path, answers_of(masks), scene.cloud, scene.triangles)
    assert [path.name for path in paths] == [f"scene0000_00_{k:04d}.ply" for k in range(4)]
    for path, mask in zip(paths, masks):
        content = PlyData.read(str(path))
        vertex = content["vertex"]
        assert np.array_equal(np.stack([vertex[a] for a in "xyz"], 1), scene.cloud.points)
        assert np.array_equal(vertex["answer"] == 1, mask)
        colors = np.stack([vertex[c] for c in ("red", "green", "blue")], 1)
        assert np.array_equal(colors[~mask], scene.cloud.colors[~mask])
        red = 0.25 * scene.cloud.colors[mask] + 0.75 * np.array([230, 50, 30])
        assert np.abs(colors[mask] - red).max(initial=0) <= 0.5
        faces = np.stack(list(content["face"]["vertex_indices"]))
        assert np.array_equal(faces, scene.triangles)
        assert np.array_equal(read_mesh(path).triangles, scene.triangles)
    rows = json.loads((tmp_path / "scene0000_00" / "queries.json").read_text())
    assert [row["text"] for row in rows] == list(TEXTS)
    assert [row["score"] for row in rows] == [1, 0.75, 0.5, 0.25]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("count", [0, 4])
def test_an_archive_loads_without_pickle(tmp_path: Path, count: int) -> None:
    masks = masks_of(13)[:count]
    with np.load(write_npz(tmp_path, answers_of(masks)), allow_pickle=False) as content:
        assert str(content["scene_id"]) == "scene0000_00"
        assert content["masks"].dtype == bool and np.array_equal(content["masks"], masks)
        assert content["masks"].shape == (count, 13)
        assert content["texts"].tolist() == list(TEXTS[:count])
        assert content["prompt_ids"].tolist() == [f"scene0000_00_{k:04d}" for k in range(count)]
        assert content["tasks"].tolist() == ["referring"] * count
        assert np.allclose(content["scores"], np.linspace(1, 0.25, count))


def test_benchmark_files_number_queries_where_there_are_no_classes(tmp_path: Path) -> None:
    masks = masks_of(13)
    counts = write_benchmark(tmp_path, answers_of(masks))
    assert (counts.written, counts.empty, counts.without_class) == (3, 1, 0)
    instances = benchmark_instances(tmp_path, "scene0000_00")
    assert [label for _, label, _ in instances] == [1, 2, 3]
    assert [confidence for _, _, confidence in instances] == [1, 0.75, 0.5]
    for (mask, _, _), ours in zip(instances, masks):
        assert np.array_equal(mask, ours)
    rows = json.loads((tmp_path / "queries" / "scene0000_00.json").read_text())
    assert [row["mask"] is None for row in rows] == [False, False, False, True]


def test_a_label_is_the_class_a_query_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("wall\nchair\noffice chair\npiano\n")
    classes = read_classes(tmp_path / "classes.txt")
    counts = write_benchmark(tmp_path, answers_of(masks_of(13)), classes)
    assert (counts.written, counts.empty, counts.without_class) == (2, 1, 1)
    instances = benchmark_instances(tmp_path, "scene0000_00")
    assert [label for _, label, _ in instances] == [2, 1]
    texts = {"Wallpaper": None, "OFFICE-CHAIR!": 2, "a chair by the wall": 1, "chairs": None}
    assert {text: class_in(text, classes) for text in texts} == texts


def test_a_scene_without_instances_has_a_file_all_the_same(tmp_path: Path) -> None:
    write_benchmark(tmp_path, answers_of(np.zeros((2, 5), bool)))
    assert benchmark_instances(tmp_path, "scene0000_00") == []


def test_no_name_in_a_line_has_a_blank(tmp_path: Path) -> None:
    write_benchmark(tmp_path, answers_of(np.ones((1, 5), bool), "my  living room"))
    (instance,) = benchmark_instances(tmp_path, "my  living room")
    assert instance[0].all()


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_run_lengths_give_the_mask_back(
    tmp_path_factory: pytest.TempPathFactory, bits: list[bool]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_benchmark(folder, answers_of(np.array([bits])), masks="rle")
    (line,) = (folder / "scene0000_00.txt").read_text().splitlines()
    content = json.loads((folder / line.split(" ")[0]).read_text())
    assert set(content) == {"length", "counts"} and decoded(content) == [int(bit) for bit in bits]


def test_run_lengths_start_at_one(tmp_path: Path) -> None:
    write_benchmark(tmp_path, answers_of(np.array([[1, 1, 0, 0, 1]], bool)), masks="rle")
    content = json.loads((tmp_path / "predicted_masks" / "scene0000_00_000.json").read_text())
    assert content == {"length": 5, "counts": "1 2 5 1"}


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Plan]:
    """A scene set whose one validation scene has answers, as the stages would leave them."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    scene_set = write_set(tmp_path / "tiny.yaml")
    plan = load_plan(scene_set)
    (name,) = plan.scenes("val")
    scene, truth = make_tiny_scene(name, spacing=0.5)
    prompts = [Prompt(f"{name}_{k:04d}", name, text, "t") for k, text in enumerate(TEXTS)]
    with writing(plan.key("prepare_prompts")) as folder:
        assert folder is not None
        truths = [PromptTruth(prompt.prompt_id, (), "x") for prompt in prompts]
        write_prompts(folder, {"train": [], "val": prompts}, truths, "objectId")
    with writing(plan.key("prepare_scene", name)) as folder:
        assert folder is not None
        mesh = (scene.cloud, scene.triangles, scene.superpoint_ids)
        write_scene(folder, *mesh, [], [], truth, name)
    masks = masks_of(len(scene.cloud))
    probs = masks.astype(np.float32)
    sure = np.array([[0.5, 0.75, 0.25]] * 4, np.float32)
    ids = tuple(prompt.prompt_id for prompt in prompts)
    with writing(plan.key("predict_masks", name)) as folder:
        assert folder is not None
        write_predictions(folder, Predictions(name, ids, probs, masks, masks[::-1], sure, sure))
    return scene_set, plan


def export(scene_set: str, out: Path, *more: str) -> int:
    return main(["export", "--scene-set", scene_set, "--output", str(out), *more])


def test_the_command_writes_each_format(finished: tuple[str, Plan], tmp_path: Path) -> None:
    scene_set, plan = finished
    (name,) = plan.scenes("val")
    out = tmp_path / "out"
    for more in (["ply"], ["npz"], ["benchmark"]):
        assert export(scene_set, out, "--format", *more) == 0
    with np.load(out / f"{name}.npz", allow_pickle=False) as content:
        together, scores = content["masks"], content["scores"]
    assert (
        np.array_equal(scores, [0.25] * 4) and not together[0].any() and together[1:].any(1).all()
    )
    assert len(list((out / name).glob("*.ply"))) == 4
    instances = benchmark_instances(out, name)
    assert all(np.array_equal(i[0], mask) for i, mask in zip(instances, together[1:]))
    assert export(scene_set, out, "--format", "npz", "--answers", "student") == 0
    with np.load(out / f"{name}.npz", allow_pickle=False) as content:
        assert np.array_equal(content["masks"], together[::-1])
        assert np.array_equal(content["scores"], [0.5] * 4)


def test_the_command_refuses_what_it_cannot_do(
    finished: tuple[str, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene_set, plan = finished
    train = plan.scenes("train")[0]
    (tmp_path / "file").write_text("")
    for out, more, hint in (
        (tmp_path / "out", ["npz", "--scene", train], "PredictMasks"),
        (tmp_path / "out", ["npz", "--scene", "nowhere"], "expected a scene of a split"),
        (tmp_path / "out", ["npz", "--overrides", "predict.turns=1"], "PredictMasks"),
        (tmp_path / "out", ["npz", "--classes", "x.txt"], "--format benchmark"),
        (tmp_path / "out", ["benchmark", "--classes", "x.txt"], "no such file"),
        (tmp_path / "file", ["npz"], "is a file"),
    ):
        assert export(scene_set, out, "--format", *more) == 2
        assert hint in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))
