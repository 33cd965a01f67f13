"""A whole run over a home of two rooms: searches and questions from queries to figures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.artifacts.answers import read_rooms
from data.artifacts.prompts import read_prompts, read_searches
from data.errors import ArtifactError
from tests.support.cli import environment, luigi, tasks_done
from tests.support.tiny_set import ROOMS, STUDENT, write_set

HOME = {**ROOMS, "val_rooms": 2, "rooms_per_place": 2, "searches": 2, "qa_questions": 2}
# An oracle that errs little, so that rooms are found by what stands in them.
TEACHER = {"name": "oracle", "oracle": {"miss": 0.0, "confuse": 0.0, "hallucinate": 0.0}}


@dataclass(frozen=True)
class Made:
    """A folder with the run's output, its scene set and what was printed."""

    folder: Path
    scene_set: str
    printed: str

    @property
    def results(self) -> Path:
        return self.folder / "output" / "home"

    def only(self, stage: str) -> Path:
        (folder,) = (self.results / stage).glob("[!.]*")
        return folder

    def metrics(self) -> Any:
        return json.loads((self.results / "metrics.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("home")
    config = {"generate": HOME, "teacher": TEACHER, "student": {**STUDENT, "epochs": 1}}
    scene_set = write_set(folder / "home.yaml", config=config)
    run = luigi(folder, "RunAll", "--scene-set", scene_set)
    assert run.returncode == 0, run.stdout
    return Made(folder, scene_set, run.stdout)


def test_every_room_of_a_home_is_asked_for_every_search_of_it(made: Made) -> None:
    folder = made.only("prepare_prompts")
    for split, searches in read_searches(folder).items():
        (place,) = {search.place for search in searches}
        assert len(searches) == 4 and [search.number for search in searches] == [0, 1, 2, 3]
        for search in searches:
            assert len(search.rooms) == 2 and search.text.startswith("in the ")
            assert search.signs and search.wanted and place in search.search_id
        # No prompt of a room's own is a search.
        assert {p.task for p in read_prompts(folder)[split]} >= {"qa", "referring"}
        assert "search" not in {p.task for p in read_prompts(folder)[split]}
    text = (folder / "prompts.json").read_text()
    assert "object_ids" not in text and '"answers"' not in text


def test_rooms_are_found_and_the_answers_scored_with_and_without_that(made: Made) -> None:
    metrics = made.metrics()
    search = metrics["search"]
    assert search["num_searches"] == 4 == metrics["by_task"]["search"]["num_queries"]
    for source in ("student", "fusion_only", "together"):
        assert search[source]["with_room"]["miou"] == metrics[source]["by_task"]["search"]["miou"]
        assert 0 <= search[source]["room_hit_rate"] <= 1
    assert search["fusion_only"]["room_hit_rate"] >= 0.5
    with_room, without = (search["fusion_only"][key] for key in ("with_room", "without_room"))
    assert with_room["ciou"] >= without["ciou"] and with_room["miou"] > 0
    choices = read_rooms(made.only("find_rooms"))
    assert {source for _, source in choices} == {"student", "fusion_only", "together"}
    assert all(len(choice.likely) == 2 for choice in choices.values())


def test_questions_have_answers_with_views_behind_them(made: Made) -> None:
    qa = made.metrics()["qa"]
    assert (
        qa["num_questions"]
        == 4
        == qa["answerable"]["num_questions"] + (qa["unanswerable"]["num_questions"])
    )
    rows = json.loads((made.only("evaluate") / "queries.json").read_text())
    asked = [row for row in rows if row["task"] == "qa"]
    assert len(asked) == 4 and all(row["right"] for row in asked)
    # The oracle says "It is [SEG]." of what it sees, which names nothing, else that none is there.
    assert {row["answer"] for row in asked} <= {"", "none"}
    absent = [row for row in asked if row["target_count"] == "zero"]
    assert all(row["answer"] == "none" == row["right"][0] for row in absent)
    assert qa["unanswerable"]["exact_match"] == (1.0 if absent else None)


def test_the_page_shows_both_and_draws_searches_in_the_room_meant(made: Made) -> None:
    page = (made.results / "report.html").read_text()
    assert "Search over several rooms" in page and "Questions answered in words" in page
    rows = json.loads((made.only("evaluate") / "queries.json").read_text())
    (text,) = {row["text"] for row in rows if row["prompt_id"].endswith("search_0000")}
    assert f"Student for: {text}" in page


def test_each_task_is_run_once_and_going_on_runs_nothing(made: Made) -> None:
    done = tasks_done(made.printed)
    assert done["FindRooms"] == 1 and done["AnswerQuestions"] == 2 and done["RunTeacher"] == 4
    again = luigi(made.folder, "RunAll", "--scene-set", made.scene_set)
    assert again.returncode == 0 and not tasks_done(again.stdout)
    alone = luigi(made.folder, "FindRooms", "--scene-set", made.scene_set)
    assert alone.returncode == 0 and not tasks_done(alone.stdout)


def test_answers_to_searches_are_exported_from_the_room_that_was_found(made: Made) -> None:
    choices = read_rooms(made.only("find_rooms"))
    folder = made.folder / "answers"
    line = [sys.executable, "-m", "pipeline", "export", "--scene-set", made.scene_set]
    line += ["--format", "npz", "--output", str(folder)]
    env = environment(made.folder / "output")
    subprocess.run(line, cwd=made.folder, env=env, check=True, capture_output=True)
    found = {}
    for path in folder.glob("*.npz"):
        with np.load(path) as content:
            names = content["prompt_ids"].tolist()
            found[path.stem] = sum("_search_" in name for name in names)
            assert content["masks"].shape[0] == len(names)
    rooms = [choice.room for (_, source), choice in choices.items() if source == "together"]
    assert found == {room: rooms.count(room) for room in found} and len(found) == 2


def test_other_words_about_rooms_ask_the_teacher_anew(made: Made) -> None:
    more = "prompts.rooms={orangery: [the lemon tree]}"
    run = luigi(made.folder, "RunTeacher", "--scene-set", made.scene_set, "--overrides", more)
    assert tasks_done(run.stdout)["RunTeacher"] == 4, run.stdout


def test_damaged_choices_are_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="finished artifact"):
        read_rooms(tmp_path)
    (tmp_path / "metadata.json").write_text("{}")
    for damage in ("", "[]", '{"choices": [{"room": 1}]}'):
        (tmp_path / "rooms.json").write_text(damage)
        with pytest.raises(ArtifactError, match="rooms.json"):
            read_rooms(tmp_path)
