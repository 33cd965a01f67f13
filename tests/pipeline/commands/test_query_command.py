"""``python -m pipeline query``: figures, files, and what it refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from data.queries.vocabulary import words_of
from pipeline.commands.query import suggested_names
from pipeline.plan import load_plan
from stages.report.exports import ANSWER_COLOR
from stages.student.ask_student import file_stem, in_one_line
from tests.support.asked_run import INJECTED, AskedRun, asked_run, made_asked
from tests.support.cli import REPOSITORY
from tests.support.two_runs import Ask, ask

__all__ = ["ask", "asked_run", "made_asked"]


def test_a_query_prints_figures_and_writes_mesh_and_picture(
    asked_run: AskedRun, ask: Ask, tmp_path: Path
) -> None:
    out, where = tmp_path / "out", ("--scene-set", asked_run.scene_set, "--scene", asked_run.scene)
    printed = ask("query", "the chair", INJECTED, "the chair", *where, "--out", out)
    lines = printed.splitlines()
    assert lines[0] == "the chair" and lines[3] == INJECTED and len(lines) == 6
    told = re.fullmatch(
        r"  presence (\d+) %, expected IoU \d+ %; (\d+) of (\d+) points, "
        r"size (.+) x (.+) x (.+) m, centre \((.+)\) m",
        lines[1],
    )
    assert told is not None
    mesh, picture = map(Path, lines[2].strip().split(", "))
    assert mesh.parent == picture.parent == out / asked_run.scene
    vertices = PlyData.read(mesh)["vertex"]
    inside = vertices["answer"] == 1
    assert [int(told[2]), int(told[3])] == [np.count_nonzero(inside), len(inside)]
    assert 0 < np.count_nonzero(inside) < len(inside)
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1)[inside]
    size = np.array([float(told[k]) for k in (4, 5, 6)])
    centre = np.array([float(value) for value in told[7].split(", ")])
    np.testing.assert_allclose(size, np.ptp(points, axis=0), atol=0.006)
    np.testing.assert_allclose(centre, (points.min(0) + points.max(0)) / 2, atol=0.006)
    redness = vertices["red"][inside].astype(int) - ANSWER_COLOR[0] * 0.75
    assert (redness > -1).all(), "a vertex of the answer keeps a quarter of its colour"
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"), int)
    greenish = (pixels[..., 1] > pixels[..., 0] + 60) & (pixels[..., 1] > pixels[..., 2] + 20)
    assert np.count_nonzero(greenish) > 50
    rows = json.loads((mesh.parent / "queries.json").read_text())
    assert [row["text"] for row in rows] == ["the chair", INJECTED]


def test_nothing_found_is_said(asked_run: AskedRun, ask: Ask, tmp_path: Path) -> None:
    sure = ("--overrides", "predict.presence_by_words=1.0")
    where = ("--scene-set", asked_run.scene_set, "--scene", asked_run.scene)
    printed = ask("query", "the chair", *where, *sure, "--out", tmp_path)
    assert re.search(r"nothing fits \(presence \d+ %\)", printed)
    (mesh,) = tmp_path.glob("*/*.ply")
    assert not PlyData.read(mesh)["vertex"]["answer"].any()


def test_the_bank_is_suggested_or_else_short_sentences(asked_run: AskedRun) -> None:
    names = suggested_names(asked_run.plan)
    assert "the wardrobe" in names and all(len(words_of(name)) <= 3 for name in names)
    banked = load_plan(asked_run.scene_set, "", "prompts.bank=[bed, potted plant]")
    assert suggested_names(banked) == ("bed", "potted plant")


def test_mistakes_are_one_line(asked_run: AskedRun, ask: Ask, tmp_path: Path) -> None:
    chosen = ("--scene-set", asked_run.scene_set)
    where = (*chosen, "--scene", asked_run.scene, "--out", tmp_path / "out")
    assert "is empty" in ask("query", "a bed", " ", *where, code=2)
    assert "expected a scene of a split" in ask(
        "query", "a bed", *chosen, "--scene", "../x", code=2
    )
    (tmp_path / "file").write_text("")
    blocked = (*chosen, "--scene", asked_run.scene, "--out", tmp_path / "file")
    assert "is a file" in ask("query", "a bed", *blocked, code=2)
    other = ("--overrides", "student.lr=0.07")
    told = ask("query", "a bed", *where, *other, code=2)
    assert "no trained student. Run: luigi --module pipeline TrainStudent" in told
    other = ("--overrides", "prepare.max_views=3")
    assert "PrepareScene" in ask("query", "a bed", *where, *other, code=2)
    assert not (tmp_path / "out").exists()


def test_a_run_without_text_student_says_how_to_make_it(
    asked_run: AskedRun, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = asked_run.plan.text().folder
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        where = ("--scene-set", asked_run.scene_set, "--scene", asked_run.scene)
        told = ask("query", "a bed", *where, "--out", tmp_path / "out", code=2)
    finally:
        aside.rename(folder)
    assert "no text student" in told and "TrainStudent" not in told
    assert f"luigi --module pipeline DistilText --scene-set {asked_run.plan.scene_set.name}" in told


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("Where can I sit?", r"where-can-i-sit-[0-9a-f]{8}"),
        ("../../etc/passwd", r"etc-passwd-[0-9a-f]{8}"),
        (INJECTED, r"img-src-x-onerror-alert-1-[0-9a-f]{8}"),
        ("Tür\x00/\n", r"tur-[0-9a-f]{8}"),
        ("椅子", r"[0-9a-f]{8}"),
        ("a " * 400, r"a(-a){19}-[0-9a-f]{8}"),
    ],
)
def test_names_of_files_are_safe(text: str, stem: str) -> None:
    assert re.fullmatch(stem, file_stem(text))


def test_names_tell_sentences_apart_and_lines_hold_no_control_character() -> None:
    assert file_stem("The bed") != file_stem("the bed") and file_stem("a") == file_stem("a")
    assert in_one_line("a\x1b[31m bed\r\nx\u202e") == "a [31m bed x"


def test_help_is_quick_and_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pipeline.__main__ import main\n"
        "try:\n    main(['view', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'viser', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True)
