"""The actions of the viewer's controls; errors are shown in the page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import viser

from data.errors import UserError
from data.queries.prompts import check_sentence
from data.queries.vocabulary import why_nothing
from data.types import Array
from stages.viewer.content import (
    NONE,
    Query,
    QueryAnswer,
    ViewedRun,
    ViewedScene,
    answer_facts,
    ask_views,
    best_views,
)
from stages.viewer.panel import NO_SOURCE, Panel
from stages.viewer.scene3d import CloudNodes, colored, emphasised

if TYPE_CHECKING:
    from stages.student.ask_student import StudentEngine


class AskTeacher:
    """Asks the run's teacher about a sentence and shows its answers."""

    def __init__(self, panel: Panel, run: ViewedRun, say: Callable[[str], None]) -> None:
        self._panel, self._run, self._say = panel, run, say
        self._busy, self._ended = threading.Lock(), threading.Event()

    def close(self) -> None:
        """Stop before the next view."""
        self._ended.set()

    def ask(self, viewed: ViewedScene, mask: Array, text: str, is_open: Callable[[], bool]) -> None:
        """Ask ``text`` on the views that see most of ``mask`` (N,), while ``is_open`` is true.

        Raises UserError for an empty sentence and while another sentence is being asked, and the
        errors of ``ask_views``.
        """
        check_sentence(text)
        if not self._busy.acquire(blocking=False):
            raise UserError("the teacher is still answering another query; wait for its answers")
        try:
            self._ask(viewed, mask, text, is_open)
        finally:
            self._panel.progress.visible = False
            self._busy.release()

    def _ask(
        self, viewed: ViewedScene, mask: Array, text: str, is_open: Callable[[], bool]
    ) -> None:
        views, panel = best_views(viewed, mask), self._panel
        panel.begin_pictures(text)
        panel.progress.value, panel.progress.visible = 0, True
        self._say(f"Asking the teacher on {len(views)} views ...")
        for done, answered_view in enumerate(
            ask_views(viewed, views, text, self._run.make_teacher), 1
        ):
            if self._ended.is_set() or not is_open():
                return
            panel.progress.value = 100 * done / len(views)
            panel.add_picture(answered_view)
        self._say(f"The teacher answered on {len(views)} views, below.")


_LOG = logging.getLogger(__name__)
_TRUTH = "truth"
_NOTICE_SECONDS = 12.0
_RED = (200, 40, 40)


class Page:
    """The page of one run; ``start`` loads scans and student in a thread."""

    def __init__(self, server: viser.ViserServer, run: ViewedRun) -> None:
        self._server, self._run = server, run
        self._lock, self._student_tried = threading.RLock(), threading.Event()
        self._viewed: ViewedScene | None = None
        self._nodes: CloudNodes | None = None
        self._query: Query | None = None
        self._answer: QueryAnswer | None = None
        self._threshold = NONE
        self._engine: StudentEngine | None = None
        self._why_no_engine = ""
        self.panel = Panel(server, run.scenes)
        self._teacher = AskTeacher(self.panel, run, self._say)
        self._connect()

    def start(self) -> None:
        """Load the first scan, then the student."""
        threading.Thread(target=self._load, daemon=True).start()

    def close(self) -> None:
        """Stop asking the teacher."""
        self._teacher.close()

    def _connect(self) -> None:
        panel = self.panel
        panel.scene.on_update(self._handler(lambda: self._open(panel.scene.value)))
        panel.stored.on_update(self._handler(self._choose_query))
        panel.source.on_update(self._handler(self._choose_source))
        panel.threshold.on_update(self._handler(self._move_threshold))
        panel.coloring.on_update(self._handler(self._paint))
        panel.point_size.on_update(self._handler(self._draw_points))
        panel.cut.on_update(self._handler(self._draw_points))
        panel.cameras.on_update(self._handler(self._show_cameras))
        self._server.on_client_connect(self._follow)
        panel.form.on_submit(lambda _: self._guarded(self._ask))
        panel.ask_teacher.on_click(lambda _: self._guarded(self._ask_teacher))

    def _follow(self, client: viser.ClientHandle) -> None:
        """Hide the walls between the client's camera and the room."""

        def moved(camera: viser.CameraHandle) -> None:
            if self._nodes is not None:
                self._nodes.look_from(camera.position)

        client.camera.on_update(moved)

    def _handler(self, act: Callable[[], None]) -> Callable[[viser.GuiEvent[Any]], None]:
        """Return a handler that calls ``act`` when the user, not the program, changes a control."""

        def handle(event: viser.GuiEvent[Any]) -> None:
            if event.client_id is not None:
                with self._lock:
                    self._guarded(act)

        return handle

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (UserError, OSError, MemoryError) as error:
            self._fail(str(error) or type(error).__name__)
        except Exception as error:  # noqa: B902 - shown in the page; the viewer continues
            _LOG.exception("the viewer failed")
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, message: str) -> None:
        message = " ".join(message.split())
        self._say(f"Error: {message}")
        for client in self._server.get_clients().values():
            client.add_notification(
                "Error", message, color=_RED, auto_close_seconds=_NOTICE_SECONDS
            )

    def _say(self, message: str) -> None:
        self.panel.status.value = message

    def _load(self) -> None:
        with self._lock:
            self._guarded(lambda: self._open(self.panel.scene.value))
        self._say("Loading the student ...")
        try:
            engine = self._run.make_engine()
            self._engine = engine
            self._say("Reading the scan into the student ...")
            engine.prepare(self.panel.scene.value)
            self._say("Ready: type a query.")
        except UserError as error:
            self._why_no_engine = str(error)
            self._say(f"Stored answers only: {error}")
        except Exception as error:  # noqa: B902 - shown in the page; the viewer continues
            _LOG.exception("the student cannot be loaded")
            self._why_no_engine = f"{type(error).__name__}: {error}"
            self._fail(self._why_no_engine)
        finally:
            self._student_tried.set()

    def _open(self, scene_id: str) -> None:
        self._say(f"Reading {scene_id} ...")
        viewed = self._run.read(scene_id)
        if self._nodes is not None:
            self._nodes.remove()
        self._viewed, self._nodes = viewed, CloudNodes(self._server, viewed.scene)
        panel = self.panel
        panel.clear_pictures()
        panel.cameras.value = False
        panel.point_size.value = self._nodes.point_size
        panel.set_queries([query.text for query in viewed.queries])
        self._choose_query()
        self._draw_points()
        position, target = self._nodes.look()
        self._server.initial_camera.position = tuple(position)
        self._server.initial_camera.look_at = tuple(target)
        for client in self._server.get_clients().values():
            client.camera.up_direction = (0.0, 0.0, 1.0)
            client.camera.position, client.camera.look_at = position, target
        self._say(f"{scene_id}: {len(viewed.scene.cloud):,} points.")
        engine = self._engine
        if engine is not None:  # So that the first query on it is as fast as the next.
            prepare = partial(self._guarded, lambda: engine.prepare(scene_id))
            threading.Thread(target=prepare, daemon=True).start()

    def _choose_query(self) -> None:
        if self._viewed is None:
            return
        chosen = self.panel.chosen
        query = None if chosen is None else self._viewed.queries[chosen]
        self._show(query)
        if query is not None:
            self._say("A stored query.")

    def _show(self, query: Query | None) -> None:
        """Show the first answer to a query, or the scan alone."""
        self._query = query
        sources = tuple(answer.source for answer in query.answers) if query else (NO_SOURCE,)
        if query is not None and query.truth is not None:
            sources += (_TRUTH,)
        self.panel.source.options = sources
        self.panel.source.value = sources[0]
        self._choose_source()

    def _choose_source(self) -> None:
        query, source = self._query, self.panel.source.value
        self._answer = None
        if query is not None:
            matches = [answer for answer in query.answers if answer.source == source]
            if not matches and query.truth is not None:
                matches = [QueryAnswer.of_mask(_TRUTH, query.truth)]
            self._answer = matches[0] if matches else None
        self._threshold = NONE if self._answer is None else self._answer.threshold
        self.panel.set_threshold(self._threshold)
        self._paint()

    def _move_threshold(self) -> None:
        if self._answer is not None and self._threshold != self.panel.threshold.value:
            self._threshold = self.panel.threshold.value
            self._paint()

    def _paint(self) -> None:
        viewed, nodes, answer, query = self._viewed, self._nodes, self._answer, self._query
        if viewed is None or nodes is None:
            return
        cloud = viewed.scene.cloud
        if answer is None or query is None:
            nodes.paint(cloud.colors, np.zeros(len(cloud), bool))
            self.panel.describe("", {})
            return
        mask, how = answer.probs >= self._threshold, self.panel.coloring.value
        nodes.paint(
            colored(cloud.colors, answer.probs, mask, query.truth, how),
            emphasised(mask, query.truth, how),
        )
        score = None if answer.source == _TRUTH else answer.score
        self.panel.describe(query.text, answer_facts(cloud.points, mask, score))

    def _draw_points(self) -> None:
        if self._nodes is not None:
            self._nodes.resize(self.panel.point_size.value)
            self._nodes.cut(self.panel.cut.value)

    def _show_cameras(self) -> None:
        if self._nodes is not None:
            failed = self._nodes.show_cameras(self.panel.cameras.value)
            if failed:
                raise UserError(f"{len(failed)} images cannot be read; the first: {failed[0]}")

    def _ask(self) -> None:
        text = self.panel.query.value
        check_sentence(text)
        self._say("Asking ...")
        self._student_tried.wait()
        if self._engine is None:
            raise UserError(self._why_no_engine)
        with self._lock:
            scene_id, started = self.panel.scene.value, time.perf_counter()
            (reply,) = self._engine.ask(scene_id, [text])
            seconds = time.perf_counter() - started
            answer = QueryAnswer("student, by words", reply.probs, reply.threshold, reply.presence)
            self.panel.choose_none()
            self._show(Query(text, (answer,)))
            if reply.num_points:
                self._say("\n".join([f"Answered in {seconds:.2f} s.", *reply.reasons]))
            else:
                why = why_nothing(reply.unmet, reply.holds)
                self._say(
                    f"Nothing fits ({seconds:.2f} s){f': {why}' if why else ''}. A lower threshold "
                    "shows what came nearest."
                )

    def _ask_teacher(self) -> None:
        text = self.panel.query.value or (self._query.text if self._query else "")
        with self._lock:
            viewed, mask = self._viewed, self._mask()
        if viewed is None:
            raise UserError("no scan is open; choose a scene first")
        self._teacher.ask(viewed, mask, text, lambda: self._viewed is viewed)

    def _mask(self) -> Array:
        """Return the mask that is shown, (N,) bool; all False where none is shown."""
        count = len(self._viewed.scene.cloud) if self._viewed is not None else 0
        answer = self._answer
        return np.zeros(count, bool) if answer is None else answer.probs >= self._threshold
