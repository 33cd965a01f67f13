"""Runs to compare: rows with counts by hand, and two evaluated answers to the tiny room."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from data.artifacts.evaluation import SOURCES, Evaluation, QueryRow, Score, TargetCount
from data.types import Array
from stages.evaluation.evaluate import EvaluationScene
from stages.evaluation.evaluate import run as evaluate
from stages.report.inputs import ComparedRun, ComparedScene, CompareInputs, Setting
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> & \"q\" 'r' \ud800"


def row(
    name: str,
    intersection: int,
    union: int,
    text: str = "",
    scene: str = "room",
    truth: int = 5,
    targets: TargetCount = "single",
) -> QueryRow:
    """Make a query that every source answers alike."""
    score = Score(intersection, union, 0.0, 1, False)
    scores = dict.fromkeys(SOURCES, score)
    return QueryRow(name, scene, text or f"the {name}", "referring", targets, truth, scores)


def rows(pairs: Sequence[tuple[int, int]]) -> list[QueryRow]:
    """Make queries q0, q1, ... with these intersections and unions."""
    return [row(f"q{k}", *pair) for k, pair in enumerate(pairs)]


def tiny_inputs(source: str = "student", scene_id: str = "00000000aa") -> CompareInputs:
    """The tiny room asked five times in two runs; the table's sentence is hostile.

    Run 1 finds the bed, and a toilet that is not there; run 2 finds table and chair instead,
    and nothing else. The lifted labels are those of run 1 in both.
    """
    scene, truth = make_tiny_scene(scene_id)
    prompts, truths = make_tiny_prompts(scene_id)
    prompts[1] = replace(prompts[1], text=HOSTILE)
    known = {one.prompt_id: one for one in truths}
    bed, table, chair, _, toilet = (prompt.prompt_id for prompt in prompts)
    found = ({bed: 11, toilet: 12}, {table: 12, chair: 13})
    masks = [
        {name: truth.mask([of_run[name]] if name in of_run else []) for name in known}
        for of_run in found
    ]

    def evaluation(student: Mapping[str, Array]) -> Evaluation:
        by_source = {"student": student, "fusion_only": masks[0], "together": student}
        return evaluate([EvaluationScene(scene_id, prompts, known, truth, by_source)])

    def scenes(wanted: Collection[str]) -> Iterator[ComparedScene]:
        assert set(wanted) == {scene_id}
        yield ComparedScene(scene, masks, {n: truth.mask(t.object_ids) for n, t in known.items()})

    targets = {name: one.object_ids for name, one in known.items()}
    runs = [
        ComparedRun(f"{HOSTILE} {k}", evaluation(of_run), {"Scene set": HOSTILE}, targets)
        for k, of_run in enumerate(masks)
    ]
    settings = [Setting("train_student: student.lr", ("0.01", HOSTILE))]
    return CompareInputs(runs, source, settings, [], scenes)
