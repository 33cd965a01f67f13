"""Command view: show a run in 3D in the browser and answer new queries."""

from __future__ import annotations

import importlib.util
import signal
import threading
import webbrowser
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from pipeline.commands.command import Command, add_run_arguments
from pipeline.commands.query import check_student, make_engine, prepared_scenes
from pipeline.plan import Plan, load_plan
from pipeline.process.process import limit_threads, num_cores, resolved
from pipeline.steps.questions import questions_of

if TYPE_CHECKING:
    from stages.student.ask_student import StudentEngine
    from stages.viewer.content import Query, QueryAnswer, ViewedRun, ViewedScene


_PORTS = range(1, 65536)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) not in _PORTS:
        raise ArgumentTypeError(f"expected a port from 1 to 65535, found {text!r}")
    return int(text)


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_run_arguments(parser)
    add("--port", type=_port, help="port on 127.0.0.1 (default: 8080, or a free one)")
    add("--no-browser", action="store_true", help="only print the address")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device for tensors")


def _view(options: Namespace) -> None:
    """Serve until Ctrl-C; UserError for a set that was not run, or without viser."""
    if importlib.util.find_spec("viser") is None:
        raise UserError(
            "viser: expected this package for the viewer, found none. Run: pip install -e .[view]"
        )
    plan = load_plan(options.scene_set, options.config, options.overrides)
    run = viewed_run(plan, options.device)
    limit_threads(num_cores())

    from stages.viewer.page import Page
    from stages.viewer.server import HOST, open_server

    for ending in (signal.SIGINT, signal.SIGTERM):  # A shell's background jobs ignore SIGINT.
        signal.signal(ending, signal.default_int_handler)
    server = open_server(run.title, options.port)
    try:
        page = Page(server, run)
        address = f"http://{HOST}:{server.get_port()}"
        print(f"{run.title}: {address} (Ctrl-C ends it)", flush=True)
        page.start()
        if not options.no_browser:
            webbrowser.open(address)
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close()
        print("\nended")
    finally:
        server.stop()


VIEW = Command("show a run in 3D in the browser and ask it new queries", _add_arguments, _view)


def viewed_run(plan: Plan, device: str) -> ViewedRun:
    """The content that the viewer shows of a run; UserError where no scene is prepared."""
    from stages.viewer.content import ViewedRun

    return ViewedRun(
        f"{plan.scene_set.name}: see it and ask it",
        prepared_scenes(plan),
        partial(_scene, plan),
        partial(_engine, plan, device),
        partial(_teacher, plan, device),
    )


def _engine(plan: Plan, device: str) -> StudentEngine:
    check_student(plan)
    return make_engine(plan, resolved(device))


def _teacher(plan: Plan, device: str) -> Any:
    if plan.experiment.teacher.name == "oracle":
        raise UserError(
            "the teacher of this config is the oracle, which is ground truth and answers no new "
            "sentence. View the set under a config with another teacher"
        )
    from stages.teacher.make_teacher import make_teacher

    return make_teacher(plan.experiment.teacher, resolved(device))


def _scene(plan: Plan, scene_id: str) -> ViewedScene:
    from data.artifacts.store import is_complete
    from stages.viewer.content import ViewedScene

    scene = plan.read("prepare_scene", "scene", scene_id)
    is_linked = is_complete(plan.key("link_points", scene_id))
    links = plan.read("link_points", "links", scene_id) if is_linked else None
    seen_by = None if links is None else lambda view: links.view(view).point_ids
    return ViewedScene(scene, tuple(_queries(plan, scene_id)), seen_by)


def _queries(plan: Plan, scene_id: str) -> list[Query]:
    """Stored queries with the answers so far, and ground truth where the set has it."""
    from data.artifacts.store import is_complete
    from stages.viewer.content import Query

    if not is_complete(plan.key("prepare_prompts")):
        return []
    answers, truths = _answers(plan, scene_id), _truths(plan, scene_id)
    return [
        Query(prompt.text, tuple(answers.get(prompt.prompt_id, ())), truths.get(prompt.prompt_id))
        for prompt in questions_of(plan).of(scene_id)
        if prompt.prompt_id in answers or prompt.prompt_id in truths
    ]


def _answers(plan: Plan, scene_id: str) -> dict[str, list[QueryAnswer]]:
    from data.artifacts.evaluation import SOURCES
    from data.artifacts.store import is_complete
    from stages.certainty import answer_certainty, label_features
    from stages.viewer.content import NONE, QueryAnswer

    by_prompt: dict[str, list[QueryAnswer]] = {}
    if is_complete(plan.key("predict_masks", scene_id)):
        stored = plan.read("predict_masks", "masks", scene_id)
        for row, name in enumerate(stored.prompt_ids):
            probs, mask = stored.probs[row], stored.masks[row]
            threshold = float(probs[mask].min()) if mask.any() else NONE
            sure = dict(zip(SOURCES, stored.presences[row].tolist(), strict=True))
            together = QueryAnswer.of_mask(
                "student and labels together", stored.together[row], sure["together"]
            )
            by_prompt[name] = [QueryAnswer("student", probs, threshold, sure["student"]), together]
    if is_complete(plan.key("fuse_masks", scene_id)):
        labels = plan.read("fuse_masks", "labels", scene_id)
        cfg = plan.experiment.predict.certainty
        presences, _ = answer_certainty(label_features(labels), cfg, "labels").tolist()
        for row, name in enumerate(labels.prompt_ids):
            threshold, soft = float(labels.thresholds[row]), labels.soft[row]
            lifted = QueryAnswer("lifted labels", soft, threshold, presences[row])
            by_prompt.setdefault(name, []).append(lifted)
    return by_prompt


def _truths(plan: Plan, scene_id: str) -> dict[str, Any]:
    """Ground-truth masks of the queries, for display only; none for a set without ground truth."""
    if not plan.scene_set.has_truth:
        return {}
    prompt_truths = plan.read("prepare_prompts", "truths")
    ground_truth = plan.read("prepare_scene", "truth", scene_id)
    return {
        prompt.prompt_id: ground_truth.mask(prompt_truths[prompt.prompt_id].object_ids)
        for prompt in questions_of(plan).of(scene_id)
        if prompt.prompt_id in prompt_truths
    }
