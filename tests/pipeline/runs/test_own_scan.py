"""From a person's own scan and a few sentences to masks, without any truth."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.artifacts.evaluation import ANSWERS
from data.artifacts.prompts import read_truths
from data.errors import ConfigError, UserError
from data.types import Prompt
from pipeline.__main__ import main
from pipeline.commands.query import check_student
from pipeline.plan import Plan, load_plan
from pipeline.scene_sets import load_scene_set
from stages.certainty import answer_certainty, label_features
from stages.configs import Experiment, ReportConfig
from stages.report.inputs import AnsweredScene, RunRecord
from stages.report.pictures import BOTH
from stages.report.report import answer_rows, run_answers
from tests.stages.report.test_report import HOSTILE
from tests.support.cli import luigi, tasks_done
from tests.support.page_parser import Page
from tests.support.scans.rgbd_tree import SCENE, write_tree
from tests.support.scans.tiny_scene import make_tiny_scene

SENTENCES = ("the red thing", "the blue thing", "something green")
# The boxes of tests.support.scans.tiny_scene in these colours.
CHAIR = (2.95, 2.25, 0.45)
BED = (1.1, 0.9, 0.25)


@pytest.fixture
def own(tmp_path: Path, color_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scan without a mesh, and what to ask of it."""
    folder = write_tree(tmp_path / SCENE, with_mesh=False)
    (folder / "queries.txt").write_text("\n".join(SENTENCES))
    monkeypatch.setenv("MLLM3D_SCAN", str(folder))
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    return folder


OVERRIDES = (
    "teacher.name=custom,teacher.class=color_teacher:ColorTeacher,teacher.options={reach: 60},"
    "prompts.bank=[],student.preset=nano,student.voxel_size=0.1,student.epochs=20,student.lr=0.01,"
    "report.picture_width=64,report.view_width=32"
)

ASKED_FOR = "student.least_scenes=1"


def test_from_a_scan_and_sentences_to_masks(own: Path) -> None:
    """The documented example of a teacher finds red and blue things, and nothing green.

    One scan has no student of its own: the labels are the answer.
    """
    run = luigi(
        own.parent,
        *("RunAll", "--scene-set", "own", "--overrides", OVERRIDES),
        MLLM3D_SCAN=str(own),
        PYTHONPATH=str(own.parent),
    )
    assert run.returncode == 0, run.stdout
    results = own.parent / "output" / "own"
    assert "3 answers, 2 with a mask" in run.stdout
    answers = {row["text"]: row for row in json.loads((results / ANSWERS).read_text())}
    assert tuple(answers) == SENTENCES
    for text, centre in zip(SENTENCES, (CHAIR, BED)):
        np.testing.assert_allclose(answers[text]["centre"], centre, atol=0.15)
        assert answers[text]["presence"] > answers["something green"]["presence"]
        assert 0 < answers[text]["quality"] < 1
    assert answers["something green"]["centre"] is None
    assert not (results / "metrics.json").exists()
    page = Page((results / "report.html").read_text("utf-8"))
    assert "nothing is measured" in page.text and "mIoU" not in page.text
    assert not (results / "train_student").exists()
    assert "no student was trained" in page.text and "Agreement" not in page.text
    again = luigi(
        own.parent,
        *("RunAll", "--scene-set", "own", "--overrides", OVERRIDES),
        MLLM3D_SCAN=str(own),
        PYTHONPATH=str(own.parent),
    )
    assert again.returncode == 0 and not tasks_done(again.stdout)
    plan = load_plan("own", "", OVERRIDES)
    predictions = plan.read("predict_masks", "masks", SCENE)
    labels = plan.read("fuse_masks", "labels", SCENE)
    np.testing.assert_array_equal(predictions.together, labels.answers())
    cfg = plan.experiment.predict.certainty
    sure = answer_certainty(label_features(labels), cfg, "labels")
    np.testing.assert_array_equal(predictions.presence("together"), sure[0])
    np.testing.assert_array_equal(predictions.quality("together"), sure[1])
    assert plan.scenes() == plan.scenes("train") == plan.scenes("val") == (SCENE,)
    assert read_truths(plan.key("prepare_prompts").folder) == {}
    line = ["export", "--scene-set", "own", "--overrides", OVERRIDES, "--format", "ply"]
    assert main([*line, "--output", str(own.parent / "masks")]) == 0
    assert len(list((own.parent / "masks" / SCENE).glob("*.ply"))) == 3


def _digest(plan: Plan, step: str, scene: str | None = None) -> str:
    return plan.key(step, scene).fingerprint


def test_a_student_of_one_scan_is_trained_when_asked_for(own: Path) -> None:
    nano = "teacher.name=lisa_nano"
    few, asked_for = load_plan("own", "", nano), load_plan("own", "", f"{nano},{ASKED_FOR}")
    assert not few.has_student and asked_for.has_student
    assert _digest(few, "predict_masks", SCENE) != _digest(asked_for, "predict_masks", SCENE)
    # How many scans are enough is no part of a student's identity.
    assert _digest(few, "train_student") == _digest(asked_for, "train_student")
    with pytest.raises(UserError, match="1 training scenes.*least_scenes is 8"):
        check_student(few)
    with pytest.raises(UserError, match="Run: luigi --module pipeline TrainStudent"):
        check_student(asked_for)
    for answering in ("predict.tokens=text", "predict.student=demo"):
        assert load_plan("own", "", f"{nano},{answering}").has_student


@pytest.mark.parametrize("task", ["Evaluate", "EvaluateTeacher2D", "Ablation", "ErrorCurves"])
def test_what_needs_truth_says_that_there_is_none(own: Path, task: str) -> None:
    run = luigi(own.parent, task, "--scene-set", "own", MLLM3D_SCAN=str(own))
    assert run.returncode != 0 and "needs ground truth" in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize("setting", ["teacher.name=oracle", "student.supervision=oracle"])
def test_oracles_are_refused(own: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} needs ground truth"):
        load_plan("own", "", setting)


def test_a_new_sentence_is_a_new_question(own: Path) -> None:
    before = load_plan("own", "", OVERRIDES)
    first = before.key("prepare_prompts").fingerprint, before.key("run_teacher", SCENE).fingerprint
    link = before.key("link_points", SCENE).fingerprint
    (own / "queries.txt").write_text("the red thing")
    after = load_plan("own", "", OVERRIDES + ",student.seed=1")  # no plan that is kept
    assert after.key("prepare_prompts").fingerprint != first[0]
    assert after.key("run_teacher", SCENE).fingerprint != first[1]
    assert after.key("link_points", SCENE).fingerprint == link


def test_a_reader_without_annotation_takes_sentences_only(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = Path(load_scene_set("own").source).read_text()
    path.write_text(text.replace("query_format: sentences", "query_format: scanrefer"))
    with pytest.raises(ConfigError, match="query_format: sentences"):
        load_scene_set(str(path))


def answered(prompts: list[Prompt]) -> AnsweredScene:
    scene, truth = make_tiny_scene()
    chair = {prompts[0].prompt_id: truth.mask([13])}
    masks = {"together": chair, "student": {}, "fusion_only": chair}
    return AnsweredScene(scene, prompts, masks, {prompts[0].prompt_id: (0.75, 0.5)})


def asked(*texts: str) -> list[Prompt]:
    return [Prompt(f"p{k}", "00000000aa", text, "sentence") for k, text in enumerate(texts)]


def test_answers_in_figures() -> None:
    found, nothing = answer_rows(answered(asked("to sit", "to fly")))
    assert (found.presence, found.quality) == (0.75, 0.5)
    assert (found.centre, found.size) == (CHAIR, (0.5, 0.5, 0.9))
    assert found.num_points == len(make_tiny_scene()[1].points_of(13))
    assert (nothing.num_points, nothing.centre, nothing.presence) == (0, None, 0.0)


def test_what_nothing_fits_tells_unmet_words_and_what_the_scan_holds() -> None:
    scene = replace(answered(asked("to sit", "to fly")), met=frozenset({"to", "sit"}))
    found, nothing = answer_rows(scene)
    assert (found.unmet, found.holds, found.why) == ((), (), "")
    assert (nothing.unmet, nothing.holds) == (("fly",), ("to sit",))
    # Categories of the bank, where there is one, surest first.
    masks = {**scene.masks["together"], "b0": np.ones(3, bool), "b1": np.ones(3, bool)}
    bank = {"b0": "bed", "b1": "sofa", "b2": "lamp"}
    sure = {**scene.certainty, "b0": (0.2, 0.9), "b1": (0.9, 0.2)}
    banked = replace(scene, bank=bank, certainty=sure, masks={**scene.masks, "together": masks})
    assert answer_rows(banked)[1].holds == ("sofa", "bed")
    record = RunRecord("own", "lisa_nano", Experiment(), (), teacher_warning="Mind the teacher.")
    files = run_answers(lambda: [banked], record, ReportConfig(picture_width=96))
    page = Page(files.html)
    assert "words never met: fly; this scan seems to hold: sofa, bed" in page.text
    assert "Mind the teacher." in page.text
    told = json.loads(files.texts[ANSWERS])[1]
    assert (told["unmet"], told["holds"]) == (["fly"], ["sofa", "bed"])


def test_a_teacher_that_knows_no_photographs_is_warned_of(own: Path) -> None:
    warned = load_plan("own", "", "teacher.name=lisa_nano").teacher_warning
    assert "on photographs its masks mean nothing" in warned
    assert load_plan("demo", "", "").teacher_warning == ""
    assert load_plan("own", "", "teacher.name=lisa").teacher_warning == ""
    assert "not label-free" in load_plan("demo", "", "teacher.name=oracle").teacher_warning


def test_the_page_of_answers_shows_hostile_sentences_as_text() -> None:
    prompts = asked("to sit", HOSTILE)
    record = RunRecord("own", "lisa", Experiment(), ())
    files = run_answers(lambda: [answered(prompts)], record, ReportConfig(picture_width=96))
    page = Page(files.html)
    assert len(page.all("img")) == 6 and len(page.code) == 3
    assert "<img src=x onerror" in page.text
    assert all(tag["src"] and tag["src"].startswith("data:") for tag in page.all("img"))
    rows = page.data("data")
    assert [row["points"] > 0 for row in rows] == [True, False]
    assert json.loads(files.texts[ANSWERS])[0]["centre"] == list(CHAIR)
    picture = np.asarray(Image.open(io.BytesIO(files.overview_png)))
    assert (picture == BOTH).all(axis=2).any()
    headers = re.findall(r'data-key="(\w+)"', files.html)
    assert set(headers) <= set(rows[0])
