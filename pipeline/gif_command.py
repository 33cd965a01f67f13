"""``python -m pipeline gif``: a moving picture of a run's queries, for a page or a talk.

The README's is made by ``--scene-set demo --out docs/demo.gif``, and by nothing else.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.command import Command, count
from pipeline.plan_command import add_run_arguments
from pipeline.show_command import chosen_prompts, require
from pipeline.teacher_commands import write_together

if TYPE_CHECKING:
    from data.types import Prompt
    from pipeline.plan import Plan
    from stages.report.animation import Candidate, Shot


def _add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    add = parser.add_argument
    told = "a query's id or a part of its text; may be given several times (default: the surest)"
    add("--query", action="append", default=[], help=told)
    add("--queries", type=count, default=3, help="how many, where none is named (default: 3)")
    add("--out", required=True, type=Path, help="the .gif to write")


def _gif(options: Namespace) -> None:
    """Choose, draw, write."""
    from pipeline.plan import load_plan
    from stages.report import animation as stage
    from stages.report.pictures import plain

    if options.out.suffix != ".gif" or options.out.is_dir():
        raise UserError(f"--out: expected the name of a .gif file, found {str(options.out)!r}")
    if not options.out.parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.parent.absolute()}; make it first")
    plan = load_plan(options.scene_set, options.config, options.overrides)
    prompts = _chosen(plan, options)
    content = stage.run(_shot(plan, prompt, options) for prompt in prompts)
    write_together({options.out: content})
    for prompt in prompts:
        print(f'{prompt.scene_id}  {prompt.prompt_id}  "{plain(prompt.text)}"')
    print(f"{options.out}: {len(prompts)} queries, {len(content) / 1e6:.2f} MB")


def _chosen(plan: Plan, options: Namespace) -> list[Prompt]:
    """The queries named, the first of each part of a text; else the surest of the set."""
    from stages.report.animation import choose

    found = [one for scene in plan.scenes("val") for one in _candidates(plan, scene, options)]
    if not found:
        raise UserError("the student answered no query with a mask: there is nothing to show")
    if not options.query:
        return choose(found, options.queries)
    prompts = [one.prompt for one in found]
    where = "no answered query of the validation scenes has"
    firsts = [chosen_prompts(prompts, [text], where)[0] for text in options.query]
    return list({one.prompt_id: one for one in firsts}.values())


def _candidates(plan: Plan, scene_id: str, options: Namespace) -> Sequence[Candidate]:
    from data.artifacts.soft_masks import read_predictions
    from pipeline.scene_data import prompts_of
    from stages.report.animation import candidates

    require(plan.prompts(), "PreparePrompts", scene_id, options)
    folder = require(plan.predict(scene_id), "PredictMasks", scene_id, options).folder
    return candidates(prompts_of(plan, scene_id), read_predictions(folder))


def _shot(plan: Plan, prompt: Prompt, options: Namespace) -> Shot:
    from data.artifacts.scene import read_scene
    from data.artifacts.soft_masks import read_predictions, read_pseudo
    from data.artifacts.teacher import read_teacher
    from stages.report.animation import Shot

    scene = prompt.scene_id
    return Shot(
        read_scene(require(plan.prepare(scene), "PrepareScene", scene, options).folder, plan.root),
        prompt,
        read_teacher(require(plan.teacher(scene), "RunTeacher", scene, options).place),
        read_pseudo(require(plan.fuse(scene), "FuseMasks", scene, options).folder),
        read_predictions(plan.predict(scene).folder),
    )


GIF = Command("a moving picture of queries and answers", _add_arguments, _gif)
