"""What a page shows of its queries: pictures, the teacher's views, and masks in 3D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from data.types import Array
from stages.cloud3d import Modes, PackedCloud, pack_masks
from stages.dollhouse import Corner
from stages.pictures import webp, webp_uri
from stages.report_drawing import House
from stages.view_shots import Shots, within_budget

_BASE64 = 4 / 3


@dataclass(frozen=True)
class Card:
    """One query: pictures as data URIs by name, and what to know about the viewpoint.

    ``cloud`` is the element with the scan's points, "" without 3D; ``mask`` this query's layers
    (``stages.cloud3d``); ``outward`` where the pictures are seen from, three numbers of a
    direction. ``shots`` are the teacher's views, None where it was not asked.
    """

    pictures: Mapping[str, str]
    note: str
    cloud: str = ""
    mask: str = ""
    outward: str = ""
    shots: Shots | None = None


class Album:
    """Cards by prompt id as they are made, and by their elements' ids the clouds they share."""

    def __init__(self, modes: Modes) -> None:
        self.modes = modes
        self.cards: dict[str, Card] = {}
        self.clouds: dict[str, PackedCloud] = {}

    def add(
        self,
        prompt_id: str,
        house: House,
        viewpoint: tuple[Corner, str],
        pictures: Mapping[str, Array],
        layers: Mapping[str, Array],
    ) -> None:
        """A card; ``layers`` are masks (N,) bool over the scan's points."""
        corner, note = viewpoint
        uris = {name: webp_uri(webp(picture)) for name, picture in pictures.items()}
        card = Card(uris, note, shots=house.shots.get(prompt_id))
        if house.cloud is not None:
            card = replace(
                card,
                cloud=self._element(house.cloud),
                mask=pack_masks(self.modes.layers, layers, house.cloud),
                outward=" ".join(f"{value:.3f}" for value in corner.outward),
            )
        self.cards[prompt_id] = card

    def _element(self, cloud: PackedCloud) -> str:
        for name, known in self.clouds.items():
            if known.scene_id == cloud.scene_id:
                return name
        name = f"cloud{len(self.clouds)}"
        self.clouds[name] = cloud
        return name

    def close(self, view_megabytes: float) -> None:
        """Leave out pictures of views that the page has no room for."""
        shots = {name: card.shots for name, card in self.cards.items() if card.shots is not None}
        for name, kept in within_budget(shots, view_megabytes * 1e6 / _BASE64).items():
            self.cards[name] = replace(self.cards[name], shots=kept)
