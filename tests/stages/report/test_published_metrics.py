"""Published figures: typed again by hand from their sources, and what the report shows of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from data.queries.formats import FormatName
from data.types import Prompt
from stages.configs import ReportConfig
from stages.evaluation.benchmarks import QuerySource
from stages.evaluation.evaluate import EvaluationScene
from stages.evaluation.evaluate import run as evaluate
from stages.evaluation.metrics import BoxScan
from stages.report.page import PublishedTable, published_section, published_tables
from stages.report.report import run
from tests.stages.report.test_report import HOSTILE, make_inputs
from tests.support.page_parser import Page
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene

INSTRUCT3D = "MLLM-For3D on Instruct3D"
BY_NAME = {table.name: table for table in published_tables()}
# (table, figures, method, supervision, values), typed from the sources and not from the files.
TYPED: list[tuple[str, str, str, str, tuple[float | None, ...]]] = [
    (INSTRUCT3D, "acc25 acc50 miou", "TGNN", "fine-tuned", (4.76, 4.76, 3.51)),
    (INSTRUCT3D, "acc25 acc50 miou", "Intent3D", "zero-shot", (9.71, 3.2, None)),
    (INSTRUCT3D, "acc25 acc50 miou", "Intent3D", "fine-tuned", (23.3, 20.41, None)),
    (INSTRUCT3D, "acc25 acc50 miou", "SegPoint", "not said", (23.7, 15.6, 17.2)),
    (INSTRUCT3D, "acc25 acc50 miou", "Reason3D", "fine-tuned", (18.35, 10.55, 12.43)),
    (INSTRUCT3D, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "labelled", (45.5, 38.7, 31.9)),
    (INSTRUCT3D, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "labelled", (46.7, 39.0, 32.3)),
    (INSTRUCT3D, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "labelled", (48.2, 40.4, 34.5)),
    (INSTRUCT3D, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "label-free", (39.1, 29.7, 23.9)),
    (INSTRUCT3D, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "label-free", (40.9, 30.5, 26.4)),
    (INSTRUCT3D, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "label-free", (41, 32.1, 28.2)),
]
_SCANNET = "MLLM-For3D on Reason3D's ScanNet questions"
_MATTERPORT = "MLLM-For3D on Reason3D's Matterport3D questions"
_ABLATION = "MLLM-For3D's ablation on Instruct3D, label-free, LISA-7B"
_INTENT = "MLLM-For3D on Intent3D, validation"
_GROUNDING = "MLLM-For3D on visual grounding without object names"
TYPED += [
    (_SCANNET, "acc25 acc50 miou", "3D-STMN", "fine-tuned", (25.43, 17.78, 18.23)),
    (_SCANNET, "acc25 acc50 miou", "Intent3D", "zero-shot", (29.12, 19.26, None)),
    (_SCANNET, "acc25 acc50 miou", "Intent3D", "fine-tuned", (20.57, 19.46, None)),
    (_SCANNET, "acc25 acc50 miou", "Reason3D", "fine-tuned", (43.21, 32.1, 31.2)),
    (_SCANNET, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "labelled", (45.53, 39.54, 31.94)),
    (_SCANNET, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "labelled", (47.32, 39.92, 31.44)),
    (_SCANNET, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "labelled", (48.45, 41.02, 39.82)),
    (_SCANNET, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "label-free", (39.38, 31.27, 30.19)),
    (_SCANNET, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "label-free", (40.92, 33.4, 32.1)),
    (_SCANNET, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "label-free", (44.18, 34.8, 32.9)),
    (_MATTERPORT, "acc25 acc50 miou", "3D-STMN", "fine-tuned", (20.68, 10.81, 13.47)),
    (_MATTERPORT, "acc25 acc50 miou", "Intent3D", "zero-shot", (19.7, 12.83, None)),
    (_MATTERPORT, "acc25 acc50 miou", "Intent3D", "fine-tuned", (13.52, 9.42, None)),
    (_MATTERPORT, "acc25 acc50 miou", "Reason3D", "fine-tuned", (31.22, 17.43, 19.54)),
    (_MATTERPORT, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "labelled", (38.31, 31.46, 22.56)),
    (_MATTERPORT, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "labelled", (39.42, 32.43, 23.2)),
    (_MATTERPORT, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "labelled", (39.81, 29.4, 24.97)),
    (_MATTERPORT, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "label-free", (30.1, 22.04, 20.71)),
    (_MATTERPORT, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "label-free", (31.68, 23.33, 20.78)),
    (_MATTERPORT, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "label-free", (33.41, 27.99, 22.5)),
    (_ABLATION, "acc25 acc50 miou", "plain projection", "label-free", (29.25, 25.26, 19.75)),
    (_ABLATION, "acc25 acc50 miou", "without token-for-query", "label-free", (33.92, 28.53, 20.93)),
    (
        _ABLATION,
        "acc25 acc50 miou",
        "without spatial consistency",
        "label-free",
        (34.53, 28.75, 21.02),
    ),
    (_ABLATION, "acc25 acc50 miou", "2 views", "label-free", (33.21, 26.45, 21.3)),
    (_ABLATION, "acc25 acc50 miou", "8 views", "label-free", (39.08, 29.1, 23.5)),
    ("SegPoint on Instruct3D", "acc50 miou", "ScanRefer", "labelled", (12.0, 6.9)),
    ("SegPoint on Instruct3D", "acc50 miou", "ReferIt3D", "labelled", (11.7, 6.4)),
    ("SegPoint on Instruct3D", "acc50 miou", "M3DRef-CLIP", "labelled", (18.1, 12.8)),
    ("SegPoint on Instruct3D", "acc50 miou", "TGNN", "labelled", (12.9, 7.1)),
    ("SegPoint on Instruct3D", "acc50 miou", "BUTD-DETR", "labelled", (16.3, 10.9)),
    ("SegPoint on Instruct3D", "acc50 miou", "EDA", "labelled", (16.6, 12.1)),
    ("SegPoint on Instruct3D", "acc50 miou", "SegPoint, vanilla", "labelled", (21.8, 16.1)),
    ("SegPoint on Instruct3D", "acc50 miou", "SegPoint", "labelled", (31.6, 27.5)),
    ("MR-CoSMo on Instruct3D", "acc50 miou", "MR-CoSMo", "not said", (33.8, 28.5)),
    (_INTENT, "acc25 acc50 miou", "IntentNet", "not said", (58.34, 40.83, None)),
    (_INTENT, "acc25 acc50 miou", "Reason3D", "fine-tuned", (61.71, 51.68, 47.3)),
    (_INTENT, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "label-free", (48.24, 39.61, 34.53)),
    (_INTENT, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "label-free", (49.92, 40.1, 35.75)),
    (_INTENT, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "label-free", (50.89, 41.56, 36.92)),
    (_GROUNDING, "acc25 acc50 miou", "EDA", "not said", (26.5, 21.2, None)),
    (_GROUNDING, "acc25 acc50 miou", "Reason3D", "not said", (17.64, 13.11, 13.05)),
    (_GROUNDING, "acc25 acc50 miou", "IntentNet", "not said", (28.12, 22.63, 18.92)),
    (_GROUNDING, "acc25 acc50 miou", "MLLM-For3D, LISA-7B", "label-free", (26.49, 22.12, 21.05)),
    (_GROUNDING, "acc25 acc50 miou", "MLLM-For3D, LISA-13B", "label-free", (27.31, 24.49, 23.93)),
    (_GROUNDING, "acc25 acc50 miou", "MLLM-For3D, VideoLISA", "label-free", (29.5, 25.61, 24.28)),
    ("Masks on ScanRefer", "miou", "M3DRef-CLIP", "labelled", (35.7,)),
    ("Masks on ScanRefer", "miou", "3D-STMN", "labelled", (39.5,)),
    ("Masks on ScanRefer", "miou", "TGNN", "labelled", (27.8,)),
    ("Masks on ScanRefer", "miou", "EDA", "labelled", (36.2,)),
    ("Masks on ScanRefer", "miou", "RefMask3D", "labelled", (44.8,)),
    ("Masks on ScanRefer", "miou", "SegPoint", "labelled", (41.7,)),
    ("Masks on Multi3DRefer", "miou", "M3DRef-CLIP", "labelled", (32.6,)),
    ("Masks on Multi3DRefer", "miou", "EDA", "labelled", (28.9,)),
    ("Masks on Multi3DRefer", "miou", "SegPoint", "labelled", (36.1,)),
    ("Reason3D on ScanRefer", "miou", "Reason3D", "labelled", (42.0,)),
    (
        "M3DRef-CLIP on ScanRefer, validation",
        "acc25 acc50",
        "M3DRef-CLIP",
        "labelled",
        (51.9, 44.7),
    ),
    (
        "M3DRef-CLIP on Multi3DRefer, validation",
        "f1_25 f1_50",
        "M3DRef-CLIP",
        "labelled",
        (42.8, 38.4),
    ),
    (
        "Reason3D's released checkpoint, ScanNet",
        "miou acc50 acc25",
        "Reason3D",
        "labelled",
        (32, 32, 44),
    ),
    (
        "Reason3D's released checkpoint, Matterport3D",
        "miou acc50 acc25",
        "Reason3D",
        "labelled",
        (22, 21, 33),
    ),
    ("ReasonSeg3D, validation", "ciou giou", "MORE3D", "labelled", (30.19, 32.01)),
    ("ReasonSeg3D, validation", "ciou giou", "Reason3D", "labelled", (25.12, 25.9)),
    ("Reason3D on SURPRISE3D", "miou acc25 acc50", "Reason3D", "fine-tuned", (22.95, 35.41, 20.79)),
]


@pytest.mark.parametrize(("name", "figures", "method", "supervision", "values"), TYPED)
def test_figures_are_those_of_the_source(
    name: str, figures: str, method: str, supervision: str, values: tuple[float | None, ...]
) -> None:
    table = BY_NAME[name]
    (row,) = [r for r in table.rows if (r.method, r.supervision) == (method, supervision)]
    assert dict(zip(figures.split(), values, strict=True)) == dict(
        zip(table.figures, row.values, strict=True)
    )


def test_every_row_but_three_is_typed_again() -> None:
    """Two of search, which have one figure each, and the ablation's last, which is table 1's."""
    typed = {(name, method, supervision) for name, _, method, supervision, _ in TYPED}
    known = {(t.name, row.method, row.supervision) for t in published_tables() for row in t.rows}
    assert typed <= known and len(known - typed) == 3
    search = BY_NAME["Reason3D's search in scenes of several rooms"]
    assert [row.values for row in search.rows] == [(10.35,), (5.33,)]
    whole = BY_NAME[_ABLATION].rows[-1]
    assert whole.values == (39.1, 29.7, 23.9) and "0.61, 0.48, 0.52 over 5 runs" in whole.method


def test_every_table_says_where_it_is_from_and_why_it_may_be_compared() -> None:
    assert len(BY_NAME) == len(published_tables())
    assert {f for table in BY_NAME.values() for f in table.formats} == set(get_args(FormatName))
    for table in BY_NAME.values():
        assert table.source and {"convention", "data"} <= set(table.reasons)
        assert table.comparable == "no" or table.trust != "secondary"
        assert ("version" in table.reasons) == bool(table.version) or table.comparable == "no"


def test_a_table_whose_rows_do_not_fit_is_refused() -> None:
    content = BY_NAME[INSTRUCT3D].model_dump()
    with pytest.raises(ValidationError, match="do not fit"):
        PublishedTable.model_validate({**content, "figures": ["acc25", "miou"]})
    with pytest.raises(ValidationError, match="ap50"):
        PublishedTable.model_validate({**content, "figures": ["acc25", "acc50", "ap50"]})


def page_of(asked: QuerySource, task: str = "cs") -> tuple[Page, dict[str, Any], str]:
    """The report of the tiny room's queries, asked as those of a benchmark; its figures; HTML."""
    scene, ground_truth = make_tiny_scene()
    prompts, truths = make_tiny_prompts()
    tasked = [Prompt(p.prompt_id, p.scene_id, p.text, task) for p in prompts]
    by_id = {truth.prompt_id: truth for truth in truths}
    shown = {key: ground_truth.mask(truth.object_ids) for key, truth in by_id.items()}
    scan = BoxScan.make(scene.cloud.points, scene.triangles)
    item = EvaluationScene(
        scene.scene_id, tasked, by_id, ground_truth, {"fusion_only": shown}, scan=scan
    )
    evaluation = evaluate([item], queries=asked)
    inputs = replace(make_inputs("lisa"), evaluation=evaluation, scenes=list)
    html = run(inputs, ReportConfig(max_pictures=0)).html
    return Page(html), dict(evaluation.summary), html


def section(page: Page) -> str:
    """Visible text of the section on published figures."""
    text = " ".join(page.text.split())
    return text[text.index("scored by the convention") :].split("The teacher in 2D")[0]


def test_the_report_sets_published_figures_beside_the_runs_own() -> None:
    page, summary, _ = page_of(QuerySource("instruct3d", "scannetpp", "v1"))
    text = section(page)
    assert "scored by the convention reason3d" in text and "SegPoint, whose set" in text
    own = summary["benchmark"]["figures"]["fusion_only"]["overall"]
    in_percent = [f"{100 * own[name]:.2f}" for name in ("acc25", "acc50", "miou")]
    assert f"This run: Lifted labels {' '.join(in_percent)}" in text
    assert "MLLM-For3D, LISA-7B label-free 39.1 29.7 23.9" in text
    assert "Intent3D zero-shot 9.71 3.2 –" in text
    assert "Source: MLLM-For3D (NeurIPS 2025), table 1" in text
    assert "Comparable with this run: partly" in text and "321 validation questions" in text
    assert "secondary: not the paper itself" in text
    assert "This scene set" not in text and "generated" not in text
    assert "Reason3D's ScanNet questions" not in text


@pytest.mark.parametrize(("version", "said"), [("v2", "says v2"), ("", "does not say which")])
def test_another_version_is_pointed_out(version: str, said: str) -> None:
    text = section(page_of(QuerySource("instruct3d", "scannetpp", version))[0])
    assert f"These figures are of version v1; this scene set {said}" in text


def test_generated_rooms_are_no_benchmark() -> None:
    page, summary, _ = page_of(QuerySource())
    text = section(page)
    assert "are not Instruct3D, so no published figure stands beside them" in text
    assert "Source:" not in text and "39.1 29.7" not in text
    assert summary["benchmark"]["is_benchmark"] is False
    assert published_section(summary).tables == ()


def test_scans_without_published_figures_say_so() -> None:
    text = section(page_of(QuerySource("instruct3d", "scannet"))[0])
    assert "No published figures of queries in the format of Instruct3D on such scans" in text


@pytest.mark.parametrize("query_format", get_args(FormatName))
def test_every_format_has_a_page(query_format: FormatName) -> None:
    page, summary, html = page_of(QuerySource(query_format, "scannet"))
    assert f"by the convention {summary['benchmark']['convention']}" in section(page)
    for tag in ("table", "section", "div", "tbody", "tr", "ul"):
        assert len(page.all(tag)) == html.count(f"</{tag}>")
    json.dumps(summary, allow_nan=False)


def test_masks_stand_beside_masks_where_a_benchmark_scores_boxes() -> None:
    page, summary, _ = page_of(QuerySource("scanrefer", "scannet"))
    text = section(page)
    miou = f"{100 * summary['fusion_only']['miou']:.2f}"
    assert "Masks on ScanRefer, percent Method 3D labels mIoU This run: Student 0.00" in text
    assert f"This run: Lifted labels {miou} This run: Together 0.00 TGNN labelled 27.8" in text
    boxes = summary["benchmark"]["figures"]["fusion_only"]["overall"]
    assert f"This run: Lifted labels {100 * boxes['acc25']:.2f} {100 * boxes['acc50']:.2f}" in text
    assert "0 of 1 scene turned by axisAlignment" in text


def test_hostile_names_of_questions_stay_text() -> None:
    page, _, html = page_of(QuerySource("surprise3d", "scannetpp", "v2"), HOSTILE)
    assert HOSTILE.replace("\ud800", "?") in page.text
    assert "onerror" not in {name for _, attrs in page.tags for name in attrs}
    assert len(page.scripts) == 2 and "22.95" in page.text


def test_a_kind_of_question_called_overall_does_not_hide_the_overall_figures() -> None:
    _, summary, _ = page_of(QuerySource("surprise3d", "scannetpp"), "overall")
    found = published_section(summary)
    assert [name for name, _ in found.rows] == ["all", "overall"]
