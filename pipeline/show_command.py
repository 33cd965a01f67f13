"""``python -m pipeline show``: a scan, its links or its teacher's answers as pictures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.command import Command, count
from pipeline.plan_command import add_run_arguments
from pipeline.teacher_commands import write_together

if TYPE_CHECKING:
    from PIL.Image import Image

    from data.artifacts.store import ArtifactKey
    from data.types import Prompt, Scene
    from pipeline.plan import Plan

    Shown = Iterator[tuple[str, Image, str]]
    """What follows the scene in a file's name, the picture, and what to print beside its path."""

_FEW_VIEWS, _TEACHER_VIEWS, _FEW_QUERIES, _MOST_NAMED = 4, 8, 4, 6


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    told = "scene: depth, superpoints; links: points over pictures; teacher: masks and answers"
    add("what", choices=list(_DRAW), help=told)
    add_run_arguments(parser)
    add("--scene", required=True, help="the scene's id")
    views = parser.add_mutually_exclusive_group()
    views.add_argument("--views", type=count, help="how many, spread over all (default: 4 or 8)")
    named = "a view's name; may be given several times"
    views.add_argument("--view", action="append", default=[], metavar="NAME", help=named)
    told = "teacher: a query's id or a part of its text; may be given several times (default: 4)"
    add("--query", action="append", default=[], help=told)
    add("--out", type=Path, default=Path("show"), help="folder to write to (default: ./show)")


def _show(options: Namespace) -> None:
    """Write every sheet as it is drawn, and tell its path."""
    from pipeline.plan import load_plan
    from stages.report.pictures import file_name, png

    if options.query and options.what != "teacher":
        raise UserError("--query is for show teacher")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: {options.out} is a file; name a folder")
    plan = load_plan(options.scene_set, options.config, options.overrides)
    plan.split_of(options.scene)
    for name, image, told in _DRAW[options.what](plan, options):
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{file_name(options.scene)}_{name}.png"
        write_together({path: png(image)})
        print(f"{path}{told}")


def require(key: ArtifactKey, task: str, scene: str, options: Namespace) -> ArtifactKey:
    """The artifact, when it is finished; UserError that says what makes it, when it is not."""
    from data.artifacts.store import is_complete

    if is_complete(key):
        return key
    whole = task in ("PreparePrompts", "TrainStudent")
    raise UserError(
        f"{'' if whole else f'scene {scene}: '}nothing of {task} yet under this config (no "
        f"{key.place}). Run: luigi --module pipeline {task} --scene-set {options.scene_set}"
        f"{'' if whole else f' --scene {scene}'}, with the same --config and --overrides"
    )


def _scene(plan: Plan, options: Namespace) -> Scene:
    from data.artifacts.scene import read_scene

    folder = require(plan.prepare(options.scene), "PrepareScene", options.scene, options).folder
    return read_scene(folder, plan.root)


def _chosen(scene: Scene, options: Namespace) -> list[int]:
    """Indices of the views asked for, of so many evenly spread ones where none is named."""
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
    wanted = min(options.views or _FEW_VIEWS, len(names))
    return [index * len(names) // wanted for index in range(wanted)]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return f"{shown}{f', ... {len(names)} in all' if len(names) > _MOST_NAMED else ''}"


def _show_scene(plan: Plan, options: Namespace) -> Shown:
    from stages.report import inspect as stage

    scene = _scene(plan, options)
    for name, image in stage.run_scene(scene, _chosen(scene, options)):
        yield name, image, ""


def _show_links(plan: Plan, options: Namespace) -> Shown:
    from data.artifacts.links import read_links
    from stages.report import inspect as stage

    scene = _scene(plan, options)
    link = require(plan.link(options.scene), "LinkPoints", options.scene, options)
    links = read_links(link.place)
    for name, image, measured in stage.run_links(scene, links, _chosen(scene, options)):
        lines = [
            f"  {one.view_id!r}: {one.points} points on {one.covered:.1%} of pixels, colours "
            f"differ by {one.difference:.1f} of 255 (chance: {one.chance:.1f})"
            for one in measured
        ]
        yield name, image, "\n".join(["", *lines])


def _show_teacher(plan: Plan, options: Namespace) -> Shown:
    from data.artifacts.soft_masks import read_pseudo
    from data.artifacts.store import is_complete
    from data.artifacts.teacher import read_teacher
    from pipeline.scene_data import asked_of
    from stages.report import inspect as stage
    from stages.report.pictures import file_name, plain

    scene = _scene(plan, options)
    require(plan.prompts(), "PreparePrompts", options.scene, options)
    teacher = require(plan.teacher(options.scene), "RunTeacher", options.scene, options)
    cache = read_teacher(teacher.place)
    asked, where = asked_of(plan, options.scene), f"no query of scene {options.scene} has"
    prompts = chosen_prompts(asked, options.query, where) if options.query else asked[:_FEW_QUERIES]
    fused = plan.fuse(options.scene)
    labels = read_pseudo(fused.folder) if is_complete(fused) else None
    views = _chosen(scene, options) if options.view else options.views or _TEACHER_VIEWS
    for prompt, image in stage.run_teacher(scene, cache, prompts, labels, views):
        yield f"teacher_{file_name(prompt.prompt_id)}", image, f'  "{plain(prompt.text)}"'


def chosen_prompts(asked: Sequence[Prompt], wanted: Sequence[str], where: str) -> list[Prompt]:
    """The queries asked for, each once, by id or by a part of the text in any case.

    Raises UserError, which begins with ``where``, for a text that none has.
    """
    found: dict[str, Prompt] = {}
    for text in wanted:
        same = [one for one in asked if one.prompt_id == text]
        same = same or [one for one in asked if text.casefold() in one.text.casefold()]
        if not text.strip() or not same:
            raise UserError(
                f"--query: {where} {text!r} in it (there are "
                f"{_some([one.text for one in asked])}); give a part of the text or an id"
            )
        found |= {one.prompt_id: one for one in same}
    return list(found.values())


_DRAW: dict[str, Callable[[Plan, Namespace], Shown]] = {
    "scene": _show_scene,
    "links": _show_links,
    "teacher": _show_teacher,
}
SHOW = Command("a scan, its links or the teacher's answers as pictures", _add_arguments, _show)
