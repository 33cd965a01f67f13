"""The report: a page that shows its figures and that hostile text cannot break."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.artifacts.evaluation import HTML, METRICS, OVERVIEW, Evaluation, write_report
from data.artifacts.soft_masks import StudentTrust
from data.types import Prompt, SurfaceTruth
from stages.configs import Experiment, FuseConfig, ReportConfig
from stages.evaluation.calibration import summarise_trust
from stages.evaluation.evaluate import EvaluationScene
from stages.evaluation.evaluate import run as evaluate
from stages.report.inputs import ReportInputs, ReportScene, RunRecord, StageRecord
from stages.report.page import changed_values
from stages.report.pictures import BOTH, MISSED, ONLY
from stages.report.report import run
from tests.support.page_parser import Page
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> & \"q\" 'r' \ud800"
WIDTH = 96
SMALL = ReportConfig(picture_width=WIDTH)


def make_inputs(teacher: str = "oracle") -> ReportInputs:
    scene, ground_truth = make_tiny_scene()
    prompts, truths = make_tiny_prompts()
    prompts[1] = Prompt(prompts[1].prompt_id, scene.scene_id, HOSTILE, prompts[1].task)
    by_id = {truth.prompt_id: truth for truth in truths}
    shown = {key: ground_truth.mask(truth.object_ids) for key, truth in by_id.items()}
    student = {key: mask.copy() for key, mask in shown.items()}
    del student[prompts[2].prompt_id]
    student[prompts[3].prompt_id] = ground_truth.mask([12])
    masks = {"student": student, "fusion_only": shown}
    surface = SurfaceTruth(0.875, 0.007, 0.125)
    truth = replace(ground_truth, surface=surface)
    sure = {"student": {key: (0.75, 0.25) for key in by_id}}
    trust = StudentTrust(0.375, 0.125)
    given = scene.scene_id, prompts, by_id, truth, masks
    item = EvaluationScene(*given, certainty=sure, trust=trust)
    result = evaluate([replace(item, superpoints=scene.superpoint_ids)])
    stages = (StageRecord("link_points", "0123456789abcdef" * 4, 12.5, 345.0, 18),)
    training = tuple({"epoch": e, "loss": 1 / e, "seconds": 1.0} for e in range(1, 6))
    config = Experiment(fuse=FuseConfig(views="all"))
    record = RunRecord("demo", teacher, config, stages, training)
    return ReportInputs(result, lambda: [ReportScene(scene, masks, shown)], record)


@pytest.fixture(scope="module")
def html() -> str:
    return run(make_inputs(), SMALL).html


def test_every_query_is_there_escaped_and_no_tag_of_it_lives(html: str) -> None:
    page = Page(html)
    shown = HOSTILE.replace("\ud800", "?")
    assert shown in page.text
    assert "onerror" not in {name for _, attrs in page.tags for name in attrs}
    assert all(str(attrs["src"]).startswith("data:image/webp;base64,") for attrs in page.all("img"))
    assert any(shown in str(attrs["alt"]) for attrs in page.all("img"))
    assert [len(page.code), len(page.scripts)] == [3, 3 + 5 + 1 + 2]
    assert "alert(" not in "".join(page.code)


def test_the_page_says_what_the_scans_allow(html: str) -> None:
    text = Page(html).text
    head = text.split("What ran")[1]  # From the page's links to that section's title.
    for words in ("What the scans allow", "Superpoint ceiling", "87.5", "7 mm", "0.12 m"):
        assert words in head
    assert "Truth snapped to superpoints" in text


def test_the_page_says_where_the_student_is_not_at_home(html: str) -> None:
    text = Page(html).text
    section = text.split("Is the student at home in these scans?")[1]
    assert "37.5" in section.split("Scene by scene")[0] and "In 1 of 1 scans" not in text
    known = make_inputs()
    trust = summarise_trust({"s": StudentTrust(0.25, 0.0)})
    evaluation = replace(known.evaluation, summary={**known.evaluation.summary, "trust": trust})
    assert "In 1 of 1 scans" in Page(run(replace(known, evaluation=evaluation), SMALL).html).text
    silent = replace(evaluation, summary={**evaluation.summary, "trust": None})
    assert "at home" not in run(replace(known, evaluation=silent), SMALL).html


def test_the_page_says_how_sure_answers_are(html: str) -> None:
    text = Page(html).text
    section = text.split("How sure, and rightly so?")[1]
    # Four of five queries have a target; all were told to have with 75 %.
    assert "0.05" in section.split("AUC: the chance")[0]
    silent = make_inputs()
    rows = tuple(
        replace(row, scores={k: replace(s, presence=None) for k, s in row.scores.items()})
        for row in silent.evaluation.rows
    )
    summary = {**silent.evaluation.summary, "certainty": {}}
    plain = run(replace(silent, evaluation=Evaluation(rows, summary)), SMALL).html
    assert "rightly so" not in plain


def test_embedded_json_is_whole_and_cannot_end_its_script(html: str) -> None:
    page = Page(html)
    assert {"type": "application/json", "id": "data"} in page.all("script")
    rows = page.data("data")
    assert len(rows) == 5
    assert rows[1]["text"] == HOSTILE
    held = [text for text in page.scripts if text not in page.code]
    assert len(held) == 8 and "<" not in "".join(held)
    assert rows[0]["student"] == pytest.approx(1, abs=1e-5)


def test_page_asks_for_nothing_and_its_policy_allows_only_its_own_text(html: str) -> None:
    page = Page(html)
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name) or "#"
            assert value.startswith(("#", "data:image/webp")), (tag, name)
        assert not [name for name in attrs if name == "style" or name.startswith("on")]
    # The bundle is a library's, whose errors name addresses; the policy lets it load none.
    assert sum("three.js" in text for text in page.code) == 1
    own = next(html.replace(text, "") for text in page.code if "three.js" in text)
    assert not re.search(r"https?://|@import|url\(|//[a-z]+\.", own)
    policy = next(str(m["content"]) for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "img-src data:;" in policy
    style = html.split("<style>")[1].split("</style>")[0]
    for text in (*page.code, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_page_is_balanced_and_its_links_and_labels_lead_somewhere(html: str) -> None:
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in page.all("a")} <= set(ids)
    for tag in ("table", "section", "article", "figure", "div", "tbody", "tr"):
        assert len(page.all(tag)) == html.count(f"</{tag}>")
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).tag == "svg"
    assert len(page.all("article")) == 5
    assert len(page.all("img")) == 15


def test_figures_settings_and_costs_are_shown(html: str) -> None:
    inputs = make_inputs()
    page = Page(html)
    text = " ".join(page.text.split())
    assert f"{100 * inputs.evaluation.summary['miou']:.1f}" in text
    assert "link_points 0123456789ab 18 12.5 345" in text
    assert "fuse.views all filtered" in text
    assert "no mask" in text and "(missing)" in text
    assert "from below" not in text and "Hidden" not in text


def test_a_warning_about_the_teacher_is_shown() -> None:
    inputs = make_inputs("oracle")
    warned = replace(inputs, record=replace(inputs.record, teacher_warning="Not <label-free>."))
    assert "Not &lt;label-free&gt;." in run(warned, SMALL).html
    assert 'class="warning" role="note"' not in run(inputs, SMALL).html


def test_a_student_of_ground_truth_is_announced() -> None:
    inputs = make_inputs("lisa-7b")
    upper_bound = run(replace(inputs, record=replace(inputs.record, supervised=True)), SMALL).html
    assert "student's results are not label-free" in upper_bound


def test_metrics_text_and_overview(html: str) -> None:
    inputs = make_inputs()
    files = run(inputs, SMALL)
    assert json.loads(files.texts[METRICS]) == inputs.evaluation.summary
    picture = np.asarray(Image.open(io.BytesIO(files.overview_png)))
    assert picture.shape[1] == 2 * (2 * WIDTH + 24)
    for color in (BOTH, ONLY, MISSED):
        assert (picture == color).all(axis=2).any()
    assert files.html == html  # same input, same bytes


def test_page_without_pictures_curve_or_some_target_counts() -> None:
    inputs = make_inputs()
    rows = [row for row in inputs.evaluation.rows if row.target_count == "single"]
    scene, truth = make_tiny_scene()
    prompts, truths = make_tiny_prompts()
    only = [p for p in prompts if p.prompt_id in {row.prompt_id for row in rows}]
    by_id = {t.prompt_id: t for t in truths}
    result = evaluate([EvaluationScene(scene.scene_id, only, by_id, truth, {})])

    def never() -> Iterator[ReportScene]:
        raise AssertionError("no scene is read for no picture")

    record = replace(inputs.record, training=(), config=Experiment())
    bare = replace(inputs, evaluation=result, scenes=never, record=record)
    files = run(bare, ReportConfig(max_pictures=0))
    page = Page(files.html)
    assert not page.all("img") and not html_curve(files.html)
    assert len(page.code) == 1 and not page.all("canvas")
    assert "–" in page.text and "Every setting has its default" in page.text
    assert "0 of 3 queries have pictures" in page.text
    assert files.overview_png.startswith(b"\x89PNG")


def html_curve(html: str) -> bool:
    return "Training loss" in html


def test_a_page_without_3d_carries_no_library() -> None:
    files = run(make_inputs(), ReportConfig(picture_width=WIDTH, points=0))
    page = Page(files.html)
    assert len(page.code) == 1 and not page.all("canvas") and len(files.html) < 200_000
    assert len(page.all("img")) == 15


def test_what_ran_stands_on_the_first_screen(html: str) -> None:
    first = html[: html.index('id="figures"')]
    text = " ".join(Page(first).text.split())
    assert "link_points 0123456789ab 12 s 345 MB" in text
    assert "fuse.views all (filtered)" in text
    summary = make_inputs().evaluation.summary
    for convention in ("strict", "inclusive"):
        figure = summary["student"]["conventions"][convention]["miou"]
        assert f"{100 * figure:.1f}" in text, convention


def test_a_ceiling_is_shown_from_below_and_a_hidden_target_is_told() -> None:
    inputs = make_inputs()
    (item,) = inputs.scenes()
    points, normals = item.scene.cloud.points, item.scene.cloud.normals
    ceiling = (points[:, 2] > 2.39) & (normals[:, 2] < 0)
    inside = np.zeros(len(points), bool)
    under_bed = (points[:, 2] < 0.01) & (normals[:, 2] > 0) & (points[:, :2] < 1.2).all(axis=1)
    inside[np.flatnonzero(under_bed & (points[:, :2] > 0.5).all(axis=1))] = True
    for target, told in ((ceiling, "Seen from below"), (inside, "Hidden from every side")):
        truths = {**item.truths, inputs.evaluation.rows[0].prompt_id: target}
        changed = [replace(item, truths=truths)]
        html = run(replace(inputs, scenes=changed.copy), SMALL).html
        assert html.count(told) == 1


def test_number_of_pictures_is_limited() -> None:
    steps: list[tuple[int, int]] = []
    files = run(
        make_inputs(),
        ReportConfig(picture_width=64, max_pictures=2),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert len(Page(files.html).all("article")) == 2
    assert steps == [(1, 2), (2, 2)]


def test_files_are_written_as_made(tmp_path: Any) -> None:
    files = run(make_inputs(), ReportConfig(max_pictures=0))
    write_report(tmp_path, files)
    assert (tmp_path / HTML).read_text("utf-8") == files.html
    assert (tmp_path / METRICS).read_text("utf-8") == files.texts[METRICS]
    assert (tmp_path / OVERVIEW).read_bytes() == files.overview_png


def test_changed_values_are_found_at_any_depth() -> None:
    assert changed_values(Experiment()) == []
    changed = Experiment.model_validate({"student": {"lr": 0.5, "loss": {"dice": 7.0}}})
    assert [row[:2] for row in changed_values(changed)] == [
        ("student.lr", 0.5),
        ("student.loss.dice", 7.0),
    ]
