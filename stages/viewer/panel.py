"""The viewer's controls.

Sentences, answers and names are shown in inputs and options only, which hold text; viser's
markdown and HTML elements would run what stands in them.
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
    """All controls; who reacts to them attaches to the handles."""

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
            self._asked = gui.add_text("Query", "", multiline=True, disabled=True)
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
        """Move the slider to a step at or below ``value``, so that no point of it is lost."""
        self.threshold.value = min(1.0, int(value / _STEP) * _STEP)

    def set_queries(self, texts: Sequence[str]) -> None:
        """Offer stored queries; numbers tell like sentences apart."""
        self.stored.options = (NO_QUERY, *(f"{k}. {text}" for k, text in enumerate(texts, 1)))
        self.choose_none()

    def choose_none(self) -> None:
        """Choose no stored query."""
        self.stored.value = NO_QUERY

    @property
    def chosen(self) -> int | None:
        """Which stored query is chosen, from 0 on."""
        value = self.stored.value
        return None if value == NO_QUERY else int(value.partition(".")[0]) - 1

    def describe(self, asked: str, answer_facts: Mapping[str, str]) -> None:
        """Tell what is shown."""
        self._asked.value = asked
        for name, handle in self._facts.items():
            handle.value = answer_facts.get(name, "")

    def clear_pictures(self) -> None:
        """Take the teacher's pictures away."""
        for handle in self._shown:
            handle.remove()
        self._shown = []
        self._pictures.visible = False

    def begin_pictures(self, asked: str) -> None:
        """Make room for what the teacher will say to a sentence."""
        self.clear_pictures()
        with self._pictures:
            self._shown.append(self._gui.add_text("Query", asked, multiline=True, disabled=True))
        self._pictures.visible = True

    def add_picture(self, seen: TeacherView) -> None:
        """Add what the teacher said on a view."""
        told = seen.text if seen.num_masks else f"{seen.text} (no mask)"
        picture: Array = small(seen.picture, _PICTURE_WIDTH)
        with self._pictures:
            self._shown.append(self._gui.add_text("View", seen.view_id, disabled=True))
            self._shown.append(self._gui.add_text("Answer", told, multiline=True, disabled=True))
            self._shown.append(self._gui.add_image(picture))
