"""Commands show and gif: pictures of a scan, its links, the teacher's answers and queries."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from pipeline.commands.command import Command, add_run_arguments, count
from pipeline.commands.teacher import write_together
from pipeline.steps import STEPS
from pipeline.steps.questions import questions_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from data.types import Prompt, Scene
    from pipeline.plan import Plan
    from stages.report.animation import AnimatedQuery, Candidate

    Shown = Iterator[tuple[str, Image, str]]
    """Per picture: the end of its file name, the picture, and text to print after its path."""


_FEW_VIEWS, _TEACHER_VIEWS, _FEW_QUERIES, _MOST_NAMED = 4, 8, 4, 6


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    text = "scene: depth, superpoints; links: points over images; teacher: masks and answers"
    add("what", choices=list(_DRAW), help=text)
    add_run_arguments(parser)
    add("--scene", required=True, help="the scene's id")
    views = parser.add_mutually_exclusive_group()
    views.add_argument(
        "--views", type=count, help="number of evenly spread views (default: 4 or 8)"
    )
    text = "a view's name; may be given several times"
    views.add_argument("--view", action="append", default=[], metavar="NAME", help=text)
    text = "teacher: a query's id or a part of its text; may be given several times (default: 4)"
    add("--query", action="append", default=[], help=text)
    add("--out", type=Path, default=Path("show"), help="folder to write to (default: ./show)")


def _show(options: Namespace) -> None:
    """Write every picture as soon as it is drawn, and print its path."""
    from pipeline.plan import load_plan
    from stages.report.pictures import file_name, png

    if options.query and options.what != "teacher":
        raise UserError(f"--query: expected with show teacher only, found show {options.what}")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: {options.out} is a file; name a folder")
    plan = load_plan(options.scene_set, options.config, options.overrides)
    plan.split_of(options.scene)
    for name, image, text in _DRAW[options.what](plan, options):
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{file_name(options.scene)}_{name}.png"
        write_together({path: png(image)})
        print(f"{path}{text}")


def require(plan: Plan, step_name: str, scene: str, options: Namespace) -> None:
    """Raise UserError with the command that makes a step's artifact, unless it is finished."""
    from data.artifacts.store import is_complete

    step = STEPS[step_name]
    key = plan.key(step_name, scene if step.is_per_scene else None)
    if is_complete(key):
        return
    subject, option = (f"scene {scene}: ", f" --scene {scene}") if step.is_per_scene else ("", "")
    raise UserError(
        f"{subject}expected an artifact of {step.task_name} under this config, found no "
        f"{key.place}. Run: luigi --module pipeline {step.task_name} --scene-set "
        f"{options.scene_set}{option}, with the same --config and --overrides"
    )


def need(plan: Plan, step_name: str, part: str, scene: str, options: Namespace) -> Any:
    """Read a part of a scene's finished artifact; UserError as ``require``."""
    require(plan, step_name, scene, options)
    return plan.read(step_name, part, scene)


def _scene(plan: Plan, options: Namespace) -> Scene:
    scene: Scene = need(plan, "prepare_scene", "scene", options.scene, options)
    return scene


def _chosen(scene: Scene, options: Namespace) -> list[int]:
    """Indices of the views asked for; of evenly spread views where none is named."""
    names = [view.view_id for view in scene.views]
    if not names:
        raise UserError(f"scene {scene.scene_id} has no views")
    unknown = next((name for name in options.view if name not in names), None)
    if unknown is not None:
        raise UserError(
            f"--view: scene {scene.scene_id} has no view {unknown!r} (there are {_some(names)})"
        )
    if options.view:
        return [names.index(name) for name in dict.fromkeys(options.view)]
    num_views = min(options.views or _FEW_VIEWS, len(names))
    return [index * len(names) // num_views for index in range(num_views)]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return f"{shown}{f', ... {len(names)} in all' if len(names) > _MOST_NAMED else ''}"


def _show_scene(plan: Plan, options: Namespace) -> Shown:
    from stages.report import inspect as stage

    scene = _scene(plan, options)
    for name, image in stage.run_scene(scene, _chosen(scene, options)):
        yield name, image, ""


def _show_links(plan: Plan, options: Namespace) -> Shown:
    from stages.report import inspect as stage

    scene = _scene(plan, options)
    links = need(plan, "link_points", "links", options.scene, options)
    for name, image, measured in stage.run_links(scene, links, _chosen(scene, options)):
        lines = [
            f"  {view.view_id!r}: {view.points} points on {view.covered:.1%} of pixels, colours "
            f"differ by {view.difference:.1f} of 255 (chance: {view.chance:.1f})"
            for view in measured
        ]
        yield name, image, "\n".join(["", *lines])


def _show_teacher(plan: Plan, options: Namespace) -> Shown:
    from data.artifacts.store import is_complete
    from stages.report import inspect as stage
    from stages.report.pictures import file_name, plain

    scene = _scene(plan, options)
    require(plan, "prepare_prompts", options.scene, options)
    cache = need(plan, "run_teacher", "masks", options.scene, options)
    prompts = questions_of(plan).asked(options.scene)
    where = f"no query of scene {options.scene} has"
    chosen = (
        chosen_prompts(prompts, options.query, where) if options.query else prompts[:_FEW_QUERIES]
    )
    is_fused = is_complete(plan.key("fuse_masks", options.scene))
    labels = plan.read("fuse_masks", "labels", options.scene) if is_fused else None
    views = _chosen(scene, options) if options.view else options.views or _TEACHER_VIEWS
    for prompt, image in stage.run_teacher(scene, cache, chosen, labels, views):
        yield f"teacher_{file_name(prompt.prompt_id)}", image, f'  "{plain(prompt.text)}"'


def chosen_prompts(prompts: Sequence[Prompt], texts: Sequence[str], where: str) -> list[Prompt]:
    """The queries asked for, each once, by id or by a part of the text, ignoring case.

    Raises UserError, with ``where`` as its subject, for a text that no query contains.
    """
    chosen: dict[str, Prompt] = {}
    for text in texts:
        matching = [each for each in prompts if each.prompt_id == text]
        matching = matching or [each for each in prompts if text.casefold() in each.text.casefold()]
        if not text.strip() or not matching:
            raise UserError(
                f"--query: {where} {text!r} in it (there are "
                f"{_some([each.text for each in prompts])}); give a part of the text or an id"
            )
        chosen |= {each.prompt_id: each for each in matching}
    return list(chosen.values())


_DRAW: dict[str, Callable[[Plan, Namespace], Shown]] = {
    "scene": _show_scene,
    "links": _show_links,
    "teacher": _show_teacher,
}
SHOW = Command("draw a scan, its links or the teacher's answers as pictures", _add_arguments, _show)


def _add_gif_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    add = parser.add_argument
    text = "a query's id or a part of its text; may be repeated (default: the most confident)"
    add("--query", action="append", default=[], help=text)
    add(
        "--queries",
        type=count,
        default=3,
        help="number of queries, where none is named (default: 3)",
    )
    add("--out", required=True, type=Path, help="the .gif file to write")


def _gif(options: Namespace) -> None:
    """Choose queries, draw them, and write the animation."""
    from pipeline.plan import load_plan
    from stages.report import animation as stage
    from stages.report.pictures import plain

    if options.out.suffix != ".gif" or options.out.is_dir():
        raise UserError(f"--out: expected the name of a .gif file, found {str(options.out)!r}")
    if not options.out.parent.is_dir():
        raise UserError(
            f"--out: expected an existing folder, found no {options.out.parent.absolute()}"
        )
    plan = load_plan(options.scene_set, options.config, options.overrides)
    prompts = _chosen_queries(plan, options)
    content = stage.run(_animated_query(plan, prompt, options) for prompt in prompts)
    write_together({options.out: content})
    for prompt in prompts:
        print(f'{prompt.scene_id}  {prompt.prompt_id}  "{plain(prompt.text)}"')
    print(f"{options.out}: {len(prompts)} queries, {len(content) / 1e6:.2f} MB")


def _chosen_queries(plan: Plan, options: Namespace) -> list[Prompt]:
    """The queries named, the first match of each text; else the most confident of the set."""
    from stages.report.animation import choose

    answered = [each for scene in plan.scenes("val") for each in _candidates(plan, scene, options)]
    if not answered:
        raise UserError("the student answered no query with a mask: there is nothing to show")
    if not options.query:
        return choose(answered, options.queries)
    prompts = [each.prompt for each in answered]
    where = "no answered query of the validation scenes has"
    firsts = [chosen_prompts(prompts, [text], where)[0] for text in options.query]
    return list({each.prompt_id: each for each in firsts}.values())


def _candidates(plan: Plan, scene_id: str, options: Namespace) -> Sequence[Candidate]:
    from stages.report.animation import candidates

    require(plan, "prepare_prompts", scene_id, options)
    predictions = need(plan, "predict_masks", "masks", scene_id, options)
    return candidates(questions_of(plan).of(scene_id), predictions)


def _animated_query(plan: Plan, prompt: Prompt, options: Namespace) -> AnimatedQuery:
    from stages.report.animation import AnimatedQuery

    scene = prompt.scene_id
    return AnimatedQuery(
        need(plan, "prepare_scene", "scene", scene, options),
        prompt,
        need(plan, "run_teacher", "masks", scene, options),
        need(plan, "fuse_masks", "labels", scene, options),
        need(plan, "predict_masks", "masks", scene, options),
    )


GIF = Command("write an animation of queries and answers", _add_gif_arguments, _gif)
