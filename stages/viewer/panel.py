"""The viewer's controls.

Sentences, answers and names appear only in inputs and options, which hold plain text; viser's
markdown and HTML elements would execute markup in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import viser

from data.types import Array
from stages.viewer.content import TeacherView
from stages.viewer.scene3d import COLORINGS, small

NO_QUERY, NO_SOURCE = "(none)", "-"
_FACTS = ("Score", "Points", "Size", "Centre")
_STEP = 0.001
_PICTURE_WIDTH = 420


class Panel:
    """All controls; the page attaches handlers to the handles."""

    def __init__(self, server: viser.ViserServer, scenes: Sequence[str]) -> None:
        gui = self._gui = server.gui
        self.status = gui.add_text("Status", "Starting ...", multiline=True, disabled=True)
        self.scene = gui.add_dropdown("Scene", tuple(scenes))
        with gui.add_folder("Ask a new query"):
            with gui.add_form(None) as self.form:
                self.query = gui.add_text("Query", "", hint="such as: where can I sit?")
                self.ask = gui.add_button("Ask the student")
            self.ask.on_click(lambda _: self.form.submit())
            self.ask_teacher = gui.add_button("Ask the teacher on the best views", color="gray")
            self.progress = gui.add_progress_bar(0, visible=False)
        with gui.add_folder("Stored queries"):
            self.stored = gui.add_dropdown("Query", (NO_QUERY,))
            self.source = gui.add_dropdown("Answer of", (NO_SOURCE,))
        with gui.add_folder("Answer"):
            self._query_shown = gui.add_text("Query", "", multiline=True, disabled=True)
            self._facts = {name: gui.add_text(name, "", disabled=True) for name in _FACTS}
            self.threshold = gui.add_slider("Threshold", 0, 1, _STEP, 0.5)
            self.coloring = gui.add_dropdown(
                "Colours", COLORINGS, hint="right: green, wrong: orange, missed: blue"
            )
        with gui.add_folder("Drawing"):
            self.point_size = gui.add_slider("Point size", 0.002, 0.2, 0.001, 0.02)
            self.cut = gui.add_checkbox("Cut away", True, hint="walls and ceiling in front")
            self.cameras = gui.add_checkbox("Cameras", False, hint="click one to look through it")
        self._pictures = gui.add_folder("Teacher", visible=False)
        self._shown: list[viser.GuiTextHandle | viser.GuiImageHandle] = []

    def set_threshold(self, value: float) -> None:
        """Move the slider to a step at or below ``value``, which keeps every point of the mask."""
        self.threshold.value = min(1.0, int(value / _STEP) * _STEP)

    def set_queries(self, texts: Sequence[str]) -> None:
        """Offer stored queries; numbers distinguish equal sentences."""
        self.stored.options = (NO_QUERY, *(f"{k}. {text}" for k, text in enumerate(texts, 1)))
        self.choose_none()

    def choose_none(self) -> None:
        """Choose no stored query."""
        self.stored.value = NO_QUERY

    @property
    def chosen(self) -> int | None:
        """The index of the chosen stored query; None without a choice."""
        value = self.stored.value
        return None if value == NO_QUERY else int(value.partition(".")[0]) - 1

    def describe(self, query: str, facts: Mapping[str, str]) -> None:
        """Show the query and the facts about its answer."""
        self._query_shown.value = query
        for name, handle in self._facts.items():
            handle.value = facts.get(name, "")

    def clear_pictures(self) -> None:
        """Remove the teacher's pictures."""
        for handle in self._shown:
            handle.remove()
        self._shown = []
        self._pictures.visible = False

    def begin_pictures(self, query: str) -> None:
        """Clear the folder of pictures for the teacher's answers to a new query."""
        self.clear_pictures()
        with self._pictures:
            self._shown.append(self._gui.add_text("Query", query, multiline=True, disabled=True))
        self._pictures.visible = True

    def add_picture(self, view: TeacherView) -> None:
        """Add the teacher's answer on a view."""
        answer = view.text if view.num_masks else f"{view.text} (no mask)"
        picture: Array = small(view.picture, _PICTURE_WIDTH)
        with self._pictures:
            self._shown.append(self._gui.add_text("View", view.view_id, disabled=True))
            self._shown.append(self._gui.add_text("Answer", answer, multiline=True, disabled=True))
            self._shown.append(self._gui.add_image(picture))
