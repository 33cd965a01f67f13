"""The doctor: a sound data set is called sound, and each planted fault is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.readers.rgbd import read_scan
from pipeline.__main__ import main
from stages.configs import LinkConfig
from stages.scene import check_scan
from tests.support.scans.rgbd_tree import MESH, SCENE, write_tree
from tests.support.scans.scannetpp_tree import ANNOTATION, IMAGES
from tests.support.scans.scannetpp_tree import MESH as SCANNETPP_MESH
from tests.support.scans.scannetpp_tree import SCENE as ONE
from tests.support.scans.scannetpp_tree import room, write_mesh
from tests.support.scans.scannetpp_tree import write_tree as write_scannetpp
from tests.support.tiny_set import write_set

OTHER = "00000000bb"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound scan with a coloured mesh."""
    folder = write_tree(tmp_path / SCENE)
    scene = room()[0]
    write_mesh(folder / MESH, scene.cloud.points, scene.triangles, colors=scene.cloud.colors)
    (folder / "queries.txt").write_text("where can I sit?\n")
    monkeypatch.setenv("MLLM3D_SCAN", str(folder))
    return folder


def doctor(*arguments: str) -> int:
    return main(["doctor", "--scene-set", *arguments])


def of_own(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = doctor("own", "--overrides", "teacher.name=lisa_nano")
    return code, capsys.readouterr().out


def test_a_sound_scan_is_sound(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, page = of_own(capsys)
    assert (
        code == 0 and "findings: none" in page and "notes: 1\n1. Teacher lisa_nano has only" in page
    )
    assert "train 1, val 1" in page and "1 of train, 1 of val" in page
    assert SCENE in page and "RunTeacher" in page


def swap_poses(folder: Path) -> None:
    """Every image gets the pose of the next."""
    paths = sorted((folder / "pose").iterdir())
    texts = [path.read_text() for path in paths]
    for path, text in zip(paths, texts[1:] + texts[:1]):
        path.write_text(text)


def invert_poses(folder: Path) -> None:
    """World-to-camera instead of camera-to-world, the most common of mistakes."""
    for path in (folder / "pose").iterdir():
        pose = np.linalg.inv(np.loadtxt(path))
        np.savetxt(path, pose)


def enlarge_mesh(folder: Path) -> None:
    """A mesh in millimetres."""
    scene = room()[0]
    points = scene.cloud.points * 1000
    write_mesh(folder / MESH, points, scene.triangles, colors=scene.cloud.colors)


def other_pictures(folder: Path) -> None:
    """Pictures of another place."""
    random = np.random.default_rng(0)
    for path in (folder / "color").iterdir():
        coarse = random.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((128, 96)).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swap_poses, "colours are not the mesh's"),
        (other_pictures, "colours are not the mesh's"),
        (invert_poses, "see almost nothing"),
        (enlarge_mesh, "see almost nothing"),
        (lambda folder: (folder / "intrinsics.txt").unlink(), "intrinsics.txt"),
        (lambda folder: (folder / "queries.txt").unlink(), "queries.txt"),
        (lambda folder: (folder / "color" / "frame2.jpg").write_bytes(b"x"), "frame2.jpg"),
    ],
)
def test_a_planted_fault_is_found(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    spoil(own)
    code, page = of_own(capsys)
    assert code == 1 and "findings: none" not in page
    assert message in page[page.index("findings:") :]


def test_lost_frames_are_noted(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "pose" / "frame3.txt").write_text("-inf " * 16)
    code, page = of_own(capsys)
    assert code == 0 and "1 of 6 frames left out" in page[page.index("notes:") :]


def test_missing_weights_are_found(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("own") == 1
    assert "teacher.lisa.weights" in capsys.readouterr().out


def test_agreement_is_the_correlation_of_greys(own: Path) -> None:
    """Pictures with their brightness turned round correlate exactly the other way."""
    scan = read_scan(own, SCENE, "")
    right = check_scan.run(scan, LinkConfig(), 6)
    assert right.agreement is not None and right.agreement > 0.8
    assert right.chance is not None and right.chance < right.agreement - 0.3
    assert right.checked == right.num_views == 6 and not right.blind and right.seen_share > 0.5
    for path in (own / "color").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path, quality=95)
    turned = check_scan.run(scan, LinkConfig(), 6)
    assert turned.agreement == pytest.approx(-right.agreement, abs=0.02)
    for path in (own / "color").iterdir():
        Image.fromarray(np.full((96, 128, 3), 90, np.uint8)).save(path)
    assert check_scan.run(scan, LinkConfig(), 6).agreement is None


@pytest.fixture
def scannetpp(tmp_path: Path) -> Path:
    """Two scenes of ScanNet++ with queries whose names agree with ids; the set's folder."""
    root = tmp_path / "data_root"
    write_scannetpp(root, OTHER)
    write_scannetpp(root, ONE)
    (root / "splits" / "val.txt").write_text(f"{OTHER}\n")
    write_queries(root, 12)
    return root


def write_queries(root: Path, raw_id: int, name: str = "office chair") -> None:
    """One query a split about the office chair: position 2, id 12, objectId 5."""
    (root / "queries").mkdir(exist_ok=True)
    for split, scene in (("train", ONE), ("val", OTHER)):
        entry = {"scene_id": scene, "object_id": [raw_id], "object_name": name}
        entry["description"] = "where can I sit?"
        (root / "queries" / f"{split}.json").write_text(json.dumps([entry]))


def of_scannetpp(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    name = f"set{len(list(root.parent.glob('*.yaml')))}.yaml"  # a plan is kept by name
    splits = {"train": "train", "val": "val"}
    code = doctor(write_set(root.parent / name, data_root=str(root), splits=splits))
    return code, capsys.readouterr().out


def test_a_set_with_truth(scannetpp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, page = of_scannetpp(scannetpp, capsys)
    assert code == 0, page
    assert "ids are id" in page and "0 about absent objects" in page


def test_ids_that_name_other_things(scannetpp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_queries(scannetpp, 10)  # the bed's
    code, page = of_scannetpp(scannetpp, capsys)
    assert code == 1 and "agree" in page


def test_truth_that_is_empty(scannetpp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scannetpp / "data" / ONE / ANNOTATION
    path.write_text(json.dumps({"segGroups": []}))
    code, page = of_scannetpp(scannetpp, capsys)
    found = page[page.index("findings:") :]
    assert code == 1 and (str(path) in found or f"{ONE}: its annotation names no object" in found)


def test_every_fault_is_told_at_once(scannetpp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(scannetpp / "data" / OTHER)
    (scannetpp / "data" / ONE / SCANNETPP_MESH).unlink()
    code, page = of_scannetpp(scannetpp, capsys)
    assert code == 1
    assert f"data/{OTHER}" in page and SCANNETPP_MESH in page


def test_pose_sources_that_disagree(scannetpp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scannetpp / "data" / ONE / IMAGES
    lines = path.read_text().splitlines()
    words = lines[2].split()
    words[5] = str(float(words[5]) + 0.1)
    path.write_text("\n".join([*lines[:2], " ".join(words), *lines[3:]]) + "\n")
    code, page = of_scannetpp(scannetpp, capsys)
    assert code == 1 and ("transforms" in page or "images.txt" in page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no scene set"),
        (("demo",), "rooms are generated"),
        (("own", "--scene", "elsewhere"), "expected a scene of a split"),
    ],
)
def test_wrong_parameters(
    own: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert doctor(*arguments) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_recorded_runs_are_what_estimates_are_made_from(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "output" / "own" / "run_teacher" / SCENE / "0123"
    folder.mkdir(parents=True)
    content = {"files": {"a": {"bytes": 3_000_000}, "b": {"bytes": 1_000_000}}, "wall_seconds": 90}
    (folder / "metadata.json").write_text(json.dumps(content))
    _, page = of_own(capsys)
    (line,) = [line for line in page.splitlines() if line.startswith("RunTeacher")]
    assert line.split() == ["RunTeacher", "4", "0.004", "90", "0.025", "earlier", "runs"]
