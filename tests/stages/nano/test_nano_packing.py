"""Several questions in one sequence: each is read as if alone, and as it will be served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data.rooms.teacher_questions import COLORS, QUERY_LABELS, ViewQuery
from models.lisa.generation import _Batch, read_prefix
from models.lisa.prompts import QuestionForm, build_prompt, question_of
from models.lisa.tokenizer import IMAGE_TOKEN_ID
from models.lisa.trainee import NanoTrainee, Sequences
from stages.nano.batches import UNKNOWN, Packed
from tests.support.worlds.nano_world import answers, untrained

Asked = list[tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def trainee() -> NanoTrainee:
    return untrained()


def asked() -> list[Asked]:
    """Two pictures with three questions each, of different lengths."""
    form = answers()

    def pair(text: str, name: str, shown: bool, how: QuestionForm = "raw") -> tuple[list[int], ...]:
        return form.question(text, how), form.answer(name, shown)

    first = [
        pair("the chair", "chair", True),
        pair("is there a blue sofa anywhere in here, please?", "blue sofa", False, "sentence"),
        pair("bed", "bed", True, "auto"),
    ]
    other = [
        pair("where?", "potted plant", False),
        pair("show me the wall clock", "wall clock", True),
        pair("a lamp", "lamp", True, "auto"),
    ]
    return [[(q, a) for q, a in pictures] for pictures in (first, other)]


def read(trainee: NanoTrainee, packed: Packed, clip: Tensor) -> tuple[Tensor, Tensor]:
    ids, segments, positions = (
        torch.from_numpy(array) for array in (packed.ids, packed.segments, packed.positions)
    )
    sequences = Sequences(torch.tensor(answers().prefix), ids, segments, positions)
    with torch.no_grad():
        states, summary = trainee.read(trainee.network.projector(clip), sequences)
    return states, summary


@pytest.fixture(scope="module")
def clip(trainee: NanoTrainee) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return trainee.network.clip_features(torch.randn(2, 3, 224, 224))


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_packed_questions_are_read_as_each_alone(trainee: NanoTrainee, clip: Tensor) -> None:
    pictures = asked()
    packed = answers().pack(pictures)
    states, summary = read(trainee, packed, clip)
    for row, questions in enumerate(pictures):
        for k, one in enumerate(questions):
            alone, its_summary = read(trainee, answers().pack([[one]]), clip[row : row + 1])
            length = len(one[0]) + len(one[1])
            own = states[row, torch.from_numpy(packed.segments[row] == k)]
            assert len(own) == length
            assert far(own, alone[0, :length]) <= 1e-4
            assert far(summary[row], its_summary[0]) <= 1e-4
    turned, _ = read(trainee, answers().pack([questions[::-1] for questions in pictures]), clip)
    last = len(pictures[0][2][0]) + len(pictures[0][2][1])
    assert far(turned[0, :last], states[0, torch.from_numpy(packed.segments[0] == 2)]) <= 1e-4


def test_training_reads_what_serving_reads(trainee: NanoTrainee, clip: Tensor) -> None:
    pictures = asked()
    packed = answers().pack(pictures)
    states, _ = read(trainee, packed, clip)
    model = trainee.network.language_model
    for row, questions in enumerate(pictures):
        with torch.no_grad():
            image = trainee.network.projector(clip[row : row + 1])
            prefix = read_prefix(model, [*answers().prefix, IMAGE_TOKEN_ID], image)
            for k, (question, answer) in enumerate(questions):
                served = _Batch(model, [prefix], [[*question, *answer]], 0).states[0]
                at = len(question) - 1 + answers().decision(answer)
                assert far(states[row, packed.ask_at[row, k]], served[at]) <= 1e-4


def test_padding_does_not_matter(trainee: NanoTrainee, clip: Tensor) -> None:
    packed = answers().pack(asked())
    noise = np.where(packed.segments == UNKNOWN, 77, packed.ids)
    assert (noise != packed.ids).any()
    states, _ = read(trainee, packed, clip)
    others, _ = read(trainee, replace(packed, ids=noise), clip)
    told = torch.from_numpy(packed.segments != UNKNOWN)
    assert far(states[told], others[told]) <= 1e-6


def test_targets_are_the_answers_next_tokens() -> None:
    packed = answers().pack(asked())
    for row, questions in enumerate(asked()):
        for k, (question, answer) in enumerate(questions):
            own = np.flatnonzero(packed.segments[row] == k)
            assert packed.ids[row, own].tolist() == [*question, *answer]
            assert packed.positions[row, own].tolist() == list(range(len(own)))
            told = own[packed.targets[row, own] != UNKNOWN]
            assert packed.targets[row, told].tolist() == answer
            # Every target but the end's is the token that follows.
            assert packed.ids[row, told + 1][:-1].tolist() == answer[:-1]
            assert told[0] == own[len(question) - 1]
            (deciding,) = own[packed.decisions[row, own] > 0]
            assert packed.ask_at[row, k] == deciding
            said = packed.targets[row, deciding]
            assert (said == answers().tokenizer.seg_id) == (answers().tokenizer.seg_id in answer)
    assert np.all(packed.targets[packed.segments == UNKNOWN] == UNKNOWN)


def test_every_answer_is_decided_right_after_its_name() -> None:
    tokenizer = answers().tokenizer
    names = [*QUERY_LABELS, *(ViewQuery("color", "chair", (), color).name for color in COLORS)]
    names += [ViewQuery("everything", "lamp", (), other="desk").name, "bed and the potted plant"]
    for name in names:
        for shown in (True, False):
            answer = answers().answer(name, shown)
            place = answers().decision(answer)
            assert tokenizer.decode(answer[:place]) == f"It is the {name},"
            end = "[SEG]." if shown else "not in this view."
            assert tokenizer.decode(answer) == f"It is the {name}, {end}"
            assert answer[-1] == tokenizer.eos_id
        # Up to there both answers are alike: the state knows nothing of which it will be.
        yes, no = (answers().answer(name, shown) for shown in (True, False))
        assert yes[: answers().decision(yes)] == no[: answers().decision(no)]


@pytest.mark.parametrize("form", ["raw", "sentence", "auto"])
def test_questions_are_the_served_prompts_tokens(form: QuestionForm) -> None:
    text = "where can I sleep at night?"
    prompt = build_prompt(question_of(text, form), "llava_v1", True)
    whole = [*answers().prefix, IMAGE_TOKEN_ID, *answers().question(text, form)]
    assert whole == answers().tokenizer.encode(prompt)


def test_noise_leaves_the_frame_of_a_question_alone() -> None:
    rng = np.random.default_rng(2)
    clean = {form: answers().question("the red chair", form) for form in ("raw", "sentence")}
    changed = 0
    for _ in range(200):
        ids = answers().noisy_question("the red chair", rng)
        alike = [c for c in clean.values() if len(c) == len(ids)]
        changed += ids not in clean.values()
        assert not alike or any(c[0] == ids[0] and c[-2:] == ids[-2:] for c in alike)
        assert answers().tokenizer.seg_id not in ids
    assert 20 < changed < 180
