"""Furnishing: everything in the room, nothing inside another thing, each kind complete."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data.rooms.catalog import CATEGORIES, LABELS
from data.rooms.ids import KINDS, room_kind, room_seed, scene_id
from data.rooms.layout import RECIPES, furnish
from data.rooms.shapes import overlap
from stages.configs import GenerateConfig
from stages.scene.generate_rooms import scene_ids


@pytest.mark.parametrize("kind", KINDS)
def test_rooms_are_plausible(kind: str) -> None:
    for seed in range(3):
        size, placed = furnish(kind, np.random.default_rng(seed), 0.25)
        assert all(4 <= side <= 7 for side in size[:2])
        assert 8 <= len(placed) <= 16
        names = Counter(item.name for item in placed)
        needed = Counter(RECIPES[kind].needed)
        assert all(names[name] >= count for name, count in needed.items())
        for index, item in enumerate(placed):
            points = item.to_room(item.model.surface.vertices)
            assert (points >= -1e-5).all() and (points <= np.array(size) + 1e-5).all()
            others = placed[index + 1 :]
            clash = [o.name for o in others if overlap(item.body, o.body)]
            on_it = [o.name for o in others if o.support == index or item.support >= 0]
            assert not set(clash) - set(on_it)
            if item.support >= 0:
                host = placed[item.support]
                top = host.model.tops[0]
                assert item.z == pytest.approx(host.z + top.z, abs=1e-6)
                assert host.body.holds(np.array([item.x]), np.array([item.y]))[0]
            if CATEGORIES[item.name].placement == "hung":
                x, y = points[:, 0], points[:, 1]
                gap = min(x.min(), y.min(), size[0] - x.max(), size[1] - y.max())
                assert gap == pytest.approx(0, abs=1e-4)


def test_every_category_is_needed_in_three_default_training_rooms() -> None:
    kinds = Counter(room_kind(index) for index in range(GenerateConfig().train_rooms))
    for label in LABELS:
        homes = [k for k in KINDS if any(CATEGORIES[n].label == label for n in RECIPES[k].needed)]
        assert sum(kinds[kind] for kind in homes) >= 3, label


def test_ids_are_pure_functions_and_never_meet() -> None:
    cfg = GenerateConfig(train_rooms=200, val_rooms=200)
    train, val = scene_ids(cfg, "train"), scene_ids(cfg, "val")
    assert train[:5] == scene_ids(GenerateConfig(train_rooms=5), "train")
    assert len({*train, *val}) == 400
    assert all(len(name) == 10 and set(name) <= set("0123456789abcdef") for name in train)
    assert scene_id(7, "train", 0) != scene_id(8, "train", 0)
    assert room_seed(7, "train", 1) != room_seed(7, "val", 1)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="garage"):
        furnish("garage", np.random.default_rng(0), 0.1)
