"""The bank: what is asked, what is refused, what the oracle says, and what the judge ignores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts.teacher import MASK, NO_SEG, TeacherCache
from data.errors import ConfigError
from data.queries.prompts import BANK_TASK, bank_prompts, is_of_bank
from data.types import Prompt, PromptTruth
from pipeline.plan import load_plan
from stages.configs import JudgeConfig, TeacherConfig
from stages.network_configs import OracleConfig
from stages.teacher import evaluate_teacher_2d
from stages.teacher.oracle import make_oracle
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.judged_world import make_answers, make_queries, make_wall
from tests.support.worlds.teacher_world import write_cache

BANK = ("chair", "zeppelin", "wall")
EXACT = TeacherConfig(
    oracle=OracleConfig(
        ragged=0, miss=0, confuse=0, hallucinate=0, token_noise=0, iou_noise=0, min_cells=1
    )
)


def test_every_category_is_a_prompt_of_its_scene() -> None:
    assert bank_prompts(BANK[:2], "ab12") == [
        Prompt("ab12_bank_000", "ab12", "the chair", BANK_TASK),
        Prompt("ab12_bank_001", "ab12", "the zeppelin", BANK_TASK),
    ]
    assert bank_prompts([], "ab12") == []
    assert is_of_bank("ab12_bank_017", "ab12")
    for of_another in ("ab12_0017", "ab12", "cd34_bank_017", "xab12_bank_017"):
        assert not is_of_bank(of_another, "ab12")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[chair, chair]", "every category once, but chair is repeated"),
        ("[chair, bed, ' Chair']", "every category once, but chair is repeated"),
        ("[potted plant, potted  plant]", "but potted plant is repeated"),
        ("['']", "every category needs a name"),
        ("[chair, '  ']", "every category needs a name"),
        ("[chair, '', '']", "every category needs a name"),
        ("chair", "valid list"),
        ("[3]", "valid string"),
    ],
)
def test_a_bank_that_says_a_thing_twice_or_not_at_all_is_refused(value: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plan("demo", "", f"prompts.bank={value}")
    message = str(caught.value)
    assert message.startswith("--overrides: prompts.bank") and told in message
    assert message.count("\n") == 0


def test_the_oracle_masks_all_objects_of_a_category_and_nothing_for_an_absent_one() -> None:
    scene, truth = make_tiny_scene()
    truth = replace(truth, labels=("chair", "table", "chair"))
    prompts, truths = make_tiny_prompts()
    asked = prompts + bank_prompts(["chair", "zeppelin", "chai", "table"], scene.scene_id)
    teacher = make_oracle(scene, truth, asked, truths, EXACT)
    view = teacher.encode_view(np.zeros((96, 128, 3), np.uint8), "view0")
    chairs, zeppelin, part, table = teacher.answer(view, [p.text for p in asked[-4:]])
    assert len(view.masks) == 3 and view.masks.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(chairs.mask_logits[0] > 0, view.masks[0] | view.masks[2])
    np.testing.assert_array_equal(table.mask_logits[0] > 0, view.masks[1])
    assert len(zeppelin.mask_logits) == len(part.mask_logits) == 0


def test_a_bank_changes_no_answer_to_a_query_of_the_same_words() -> None:
    scene, truth = make_tiny_scene()
    truth = replace(truth, labels=("table", "table", "chair"))
    prompts, truths = make_tiny_prompts()
    assert prompts[1].text == "the table" and truths[1].object_ids == (12,)
    bank = bank_prompts(["table"], scene.scene_id)
    for asked in (prompts + bank, bank + prompts):
        teacher = make_oracle(scene, truth, asked, truths, EXACT)
        view = teacher.encode_view(np.zeros((96, 128, 3), np.uint8), "view0")
        (answer,) = teacher.answer(view, ["the table"])
        np.testing.assert_array_equal(answer.mask_logits[0] > 0, view.masks[1])


def test_a_query_of_the_task_bank_is_a_query() -> None:
    scene, truth = make_tiny_scene()
    odd = [Prompt("q", scene.scene_id, "the chair", BANK_TASK)]
    teacher = make_oracle(scene, truth, odd, [PromptTruth("q", (11,), "bed")], EXACT)
    view = teacher.encode_view(np.zeros((96, 128, 3), np.uint8), "view0")
    (answer,) = teacher.answer(view, ["the chair"])
    np.testing.assert_array_equal(answer.mask_logits[0] > 0, view.masks[0])


def with_bank_rows(folder: Path, cache: TeacherCache, names: list[str]) -> TeacherCache:
    """A cache with a full mask more for each name, behind the queries."""
    behind = ((0, 0), (0, len(names)))
    masks = np.stack([cache.mask_logits(view) for view in range(len(cache.view_ids))])
    status = np.pad(cache.status, behind, constant_values=MASK)
    return write_cache(
        folder,
        status,
        np.pad(masks, (*behind, (0, 0), (0, 0)), constant_values=8),
        np.pad(cache.predicted_iou, behind, constant_values=0.5),
        np.zeros((*status.shape, 2), np.float32),
        more_ids=names,
    )


def test_the_judge_marks_queries_alone(tmp_path: Path) -> None:
    scene, truth = make_wall()
    prompts, truths = make_queries()
    cache, cfg = make_answers(tmp_path / "a"), JudgeConfig()
    wanted = evaluate_teacher_2d.run(scene, truth, prompts, truths, cache, cfg)
    names = [prompt.prompt_id for prompt in bank_prompts(BANK, "wall")]
    banked = with_bank_rows(tmp_path / "b", cache, names)
    found = evaluate_teacher_2d.run(scene, truth, prompts, truths, banked, cfg)
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    for number, others in enumerate((["q3"], [*names, "q3"], ["other_bank_000"])):
        stranger = with_bank_rows(tmp_path / str(number), cache, others)
        with pytest.raises(ValueError, match="other queries"):
            evaluate_teacher_2d.run(scene, truth, prompts, truths, stranger, cfg)


def test_the_judge_sees_no_mask_that_was_held_back(tmp_path: Path) -> None:
    scene, truth = make_wall()
    prompts, truths = make_queries()
    cache = make_answers(tmp_path / "a")
    wanted = evaluate_teacher_2d.run(scene, truth, prompts, truths, cache, JudgeConfig())
    held = cache.status == NO_SEG
    masks = np.stack([cache.mask_logits(view) for view in range(4)])
    masks[held] = 8
    belief, tokens = np.where(held, 0.75, cache.predicted_iou), np.zeros((4, 3, 2), np.float32)
    fuller = write_cache(tmp_path / "b", cache.status, masks, belief, tokens, withheld=held)
    assert held.sum() == 6 and fuller.drawn.sum() == 6 + np.sum(cache.status == MASK)
    found = evaluate_teacher_2d.run(scene, truth, prompts, truths, fuller, JudgeConfig())
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value)
