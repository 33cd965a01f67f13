"""Groups of scenes that are one place's rooms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.queries.hierarchical_search import consecutive, houses, read_places, within


def test_scenes_that_follow_each_other_and_houses() -> None:
    assert consecutive(["a", "b", "c", "d", "e"], 2) == {
        "place_a": ("a", "b"),
        "place_c": ("c", "d"),
        "place_e": ("e",),
    }
    assert houses(["x_region1", "y_region0", "x_region10", "hall"]) == {
        "x": ("x_region1", "x_region10"),
        "y": ("y_region0",),
    }


def test_a_file_of_places_and_what_a_split_has_of_it(tmp_path: Path) -> None:
    path = tmp_path / "places.json"
    path.write_text(json.dumps({"home": ["a", "b"], "flat": ["c"]}))
    places = read_places(path)
    assert places == {"home": ("a", "b"), "flat": ("c",)}
    assert within(places, ["b", "z"]) == {"home": ("b",)}


@pytest.mark.parametrize(
    "content",
    [[], "x", {"home": []}, {"home": "a"}, {"home": [1]}, {"home": [""]}, {"home": ["a", "a"]}],
)
def test_what_is_no_file_of_places_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "places.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="places.json"):
        read_places(path)


def test_a_scene_of_two_places_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "places.json"
    path.write_text(json.dumps({"home": ["a", "b"], "flat": ["b"]}))
    with pytest.raises(DataError, match=r"flat.*\['b'\]"):
        read_places(path)
    with pytest.raises(DataError, match="missing.json"):
        read_places(tmp_path / "missing.json")
