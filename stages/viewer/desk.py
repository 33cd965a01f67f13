"""Asking the teacher from the page: one sentence at a time, a picture as soon as it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

from data.errors import UserError
from data.types import Array
from stages.sentences import check_sentence
from stages.viewer.content import ViewedRun, ViewedScene
from stages.viewer.panel import Panel
from stages.viewer.teacher import ask_views, best_views


class TeacherDesk:
    """Puts sentences to the run's teacher and shows what it says."""

    def __init__(self, panel: Panel, run: ViewedRun, say: Callable[[str], None]) -> None:
        self._panel, self._run, self._say = panel, run, say
        self._busy, self._ended = threading.Lock(), threading.Event()

    def close(self) -> None:
        """Ask no further view."""
        self._ended.set()

    def ask(self, viewed: ViewedScene, mask: Array, text: str, is_open: Callable[[], bool]) -> None:
        """Ask ``text`` on the views that see most of ``mask`` (N,), as long as ``is_open``.

        Raises UserError for an empty sentence, while another is asked, and as ``ask_views``.
        """
        check_sentence(text)
        if not self._busy.acquire(blocking=False):
            raise UserError("the teacher is still answering")
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
        for done, seen in enumerate(ask_views(viewed, views, text, self._run.make_teacher), 1):
            if self._ended.is_set() or not is_open():
                return
            panel.progress.value = 100 * done / len(views)
            panel.add_picture(seen)
        self._say(f"The teacher answered on {len(views)} views, below.")
