"""``python -m pipeline query``: sentences asked of one scan, answered by the student."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.command import Command

if TYPE_CHECKING:
    from data.types import Scene
    from stages.student.ask_student import Asked

_OUT = "queries"


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("query", nargs="+", help="a sentence, such as: where can I sit?")
    add("--scene-set", required=True, help="a file in configs/scene_sets, or the path of one")
    add("--scene", required=True, help="the scan to ask; any of the set's, of any split")
    add("--config", default="", help="experiment file, as it was run")
    add("--overrides", default="", help="key=value,key=value, as they were run")
    add("--out", type=Path, default=Path(_OUT), help=f"folder to write to (default: {_OUT})")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")


def _query(options: Namespace) -> None:
    """Ask, print the answers, write a mesh and a picture of each."""
    from data.queries.prompts import check_sentence
    from pipeline import asking
    from pipeline.plan import load_plan

    texts = list(dict.fromkeys(options.query))
    for text in texts:
        check_sentence(text)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: {options.out} is a file; name a folder")
    plan = load_plan(options.scene_set, options.config, options.overrides)
    asking.check_scene(plan, options.scene)
    asking.check_student(plan)

    from pipeline.process import limit_threads, num_cores, resolved

    limit_threads(num_cores())
    engine = asking.make_engine(plan, resolved(options.device))
    answers = engine.ask(options.scene, texts)
    _write(options.out, engine.prepare(options.scene), answers)


def _write(out: Path, scene: Scene, answers: list[Asked]) -> None:
    """Print each answer and write ``<out>/<scene>/<words>-<hash>.ply`` and ``.png``."""
    from stages.report.exports import write_bytes, write_meshes
    from stages.student.ask_student import exported, house_of, in_one_line, picture_of

    content = exported(scene.scene_id, answers)
    meshes = write_meshes(out, content, scene.cloud, scene.triangles)
    house = house_of(scene)
    for asked, mesh in zip(answers, meshes, strict=True):
        print(f"{in_one_line(asked.text)}\n  {_figures(asked)}")
        written = [mesh]
        if house is not None:
            written.append(mesh.with_suffix(".png"))
            write_bytes(written[-1], picture_of(house, asked))
        print("  " + ", ".join(map(str, written)))


def _figures(asked: Asked) -> str:
    centre, size = asked.box
    if centre is None or size is None:
        return f"nothing found (score {asked.score:.2f})"
    at, sides = (", ".join(f"{v:.2f}" for v in centre), " x ".join(f"{v:.2f}" for v in size))
    return (
        f"score {asked.score:.2f}, {asked.num_points} of {len(asked.mask)} points, "
        f"size {sides} m, centre ({at}) m"
    )


QUERY = Command("ask a scan a sentence, answered by the student alone", _add_arguments, _query)
