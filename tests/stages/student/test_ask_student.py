"""Free questions to a student: the answers of PredictMasks, features kept, mistakes told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data.artifacts.scene import read_scene
from data.artifacts.soft_masks import read_predictions
from data.artifacts.student import read_text_student
from data.errors import UserError
from data.types import Scene
from pipeline.commands.query import make_engine, suggested_names
from pipeline.steps.questions import questions_of
from stages.configs import RelationsConfig
from stages.student import ask_student
from stages.student.ask_student import AskConfigs, SentenceAnswer, StudentEngine, in_percent
from stages.student.text_encoding import encode_queries
from tests.support.asked_run import AskedRun, asked_run, made_asked
from tests.support.cli import REPOSITORY

__all__ = ["asked_run", "made_asked"]


def test_answers_are_those_of_predict_masks(asked_run: AskedRun) -> None:
    plan, name = asked_run.plan, asked_run.scene
    stored = read_predictions(plan.key("predict_masks", name).folder)
    texts = [prompt.text for prompt in questions_of(plan).asked(name)]
    engine = make_engine(plan, "cpu")
    answers = engine.ask(name, texts)
    assert len(answers) == len(stored.prompt_ids) > 5 and stored.masks.any()
    for row, asked in enumerate(answers):
        assert asked.text == texts[row] and asked.probs.dtype == np.float32
        assert np.array_equal(asked.probs, stored.probs[row])
        assert np.array_equal(asked.mask, stored.masks[row])
        assert asked.presence == stored.presence("student")[row]
        assert asked.quality == stored.quality("student")[row]
        assert asked.num_points == np.count_nonzero(stored.masks[row])
    for row in (0, 3):  # Alone, sums may round otherwise: by one step of 1/255 at most.
        (alone,) = engine.ask(name, [texts[row]])
        np.testing.assert_allclose(alone.probs, stored.probs[row], atol=1 / 255 + 1e-6)
        assert np.mean(np.abs(alone.probs - stored.probs[row]) > 1e-6) < 0.05


def test_an_answer_in_figures_by_hand() -> None:
    points = np.array([[0, 0, 0], [1, 2, 4], [3, 2, 5], [9, 9, 9]], np.float32)
    probs = np.array([0.1, 0.6, 0.8, 0.2], np.float32)
    asked = SentenceAnswer("the bed", probs, 0.6, points, 0.87, 0.4)
    assert asked.mask.tolist() == [False, True, True, False] and asked.num_points == 2
    assert in_percent(asked) == "presence 87 %, expected IoU 40 %"
    assert asked.box == ((2.0, 2.0, 4.5), (2.0, 0.0, 1.0))
    nothing = replace(asked, threshold=2.0)
    assert not nothing.mask.any() and nothing.box == (None, None)


def test_where_nothing_fits_words_and_things_are_told(
    asked_run: AskedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(text: Any, texts: Sequence[str], *rest: Any) -> Any:
        tokens, known = encode_queries(text, texts, *rest)
        return tokens, np.where([said == "the moon" for said in texts], 0.25, known)

    monkeypatch.setattr(ask_student, "encode_queries", refusing)
    monkeypatch.setattr(ask_student, "known_words", lambda *of: frozenset({"the", "chair"}))
    engine = make_engine(asked_run.plan, "cpu")
    nothing, chair = engine.ask(asked_run.scene, ["the moon", "the chair"])
    assert (nothing.num_points, nothing.unmet) == (0, ("moon",))
    assert nothing.presence < chair.presence
    assert chair.num_points > 0 and chair.unmet == chair.holds == ()
    found = engine.ask(asked_run.scene, nothing.holds)
    assert 0 < len(found) <= 8 and set(nothing.holds) <= set(suggested_names(asked_run.plan))
    scores = [answer.probs.max() for answer in found]
    assert scores == sorted(scores, reverse=True)
    assert all(answer.num_points for answer in found)


def test_scans_are_read_once_while_they_are_kept(
    asked_run: AskedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_student, "_KEPT_SCENES", 2)
    plan, read = asked_run.plan, list[str]()

    def reading(name: str) -> Scene:
        read.append(name)
        return read_scene(plan.key("prepare_scene", name).folder)

    cfg = plan.experiment
    configs = AskConfigs(cfg.predict, cfg.text, cfg.teacher)
    text = read_text_student(plan.text().folder)
    engine = StudentEngine(plan.student().folder, text, reading, configs)
    a, b, c = plan.scenes()
    first = engine.ask(a, ["the chair"])[0]
    for name in (b, a, c, a, b):
        engine.ask(name, ["the chair"])
    assert read == [a, b, c, b]
    assert np.array_equal(engine.ask(a, ["the chair"])[0].probs, first.probs)
    assert engine.prepare(a).scene_id == a


@pytest.mark.parametrize(
    ("text", "told"), [("", "is empty"), (" \n", "is empty"), ("\udc80", "no Unicode text")]
)
def test_what_is_no_sentence_is_refused(asked_run: AskedRun, text: str, told: str) -> None:
    engine = make_engine(asked_run.plan, "cpu")
    with pytest.raises(UserError, match=told):
        engine.ask(asked_run.scene, ["the chair", text])


def test_tokens_of_another_length_are_refused(asked_run: AskedRun) -> None:
    plan = asked_run.plan
    cfg, text = plan.experiment, read_text_student(plan.text().folder)
    shorter = replace(text, weight=text.weight[:, :-1], bias=text.bias[:-1])
    configs = AskConfigs(cfg.predict, cfg.text, cfg.teacher)
    engine = StudentEngine(
        plan.student().folder,
        shorter,
        lambda name: read_scene(plan.key("prepare_scene", name).folder),
        configs,
    )
    with pytest.raises(UserError, match="tokens have length"):
        engine.ask(asked_run.scene, ["the chair"])


def test_the_page_comes_before_torch() -> None:
    loads = "import stages.viewer.page, stages.viewer.server, pipeline.commands.view"
    code = f"import sys; {loads}; assert not {{'torch', 'open3d'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_a_sentence_that_relates_things_is_answered_by_its_phrases(asked_run: AskedRun) -> None:
    engine = make_engine(asked_run.plan, "cpu")  # The oracle's student is asked as it is.
    text = "find the lamp most distant from the bed"
    (plain,) = engine.ask(asked_run.scene, [text])
    assert plain.reasons == ()
    engine._configs = replace(engine._configs, relations=RelationsConfig())
    resolved, lamp = engine.ask(asked_run.scene, [text, "the lamp"])
    assert resolved.reasons[0] == "read as: lamp farthest(bed)" and lamp.reasons == ()
    assert resolved.reasons[1].startswith("1. chosen: lamp at (")
    assert resolved.mask.any() and not (resolved.mask & ~lamp.mask).any()
    assert resolved.presence == lamp.presence and 0 < resolved.quality <= lamp.quality
