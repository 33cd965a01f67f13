"""How near LISA came to [SEG], and what it withheld, against one forward pass per token."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.reference import lisa_slow
from models.lisa.checkpoint import Refusal
from models.lisa.images import sam_pixels
from models.lisa.prompts import build_prompt
from models.lisa.teacher import LisaTeacher
from models.teacher import TeacherAnswer
from tests.support.worlds.lisa_golden import NAMES, TOLERANCE, Golden, far, golden

MORE = ("the door", "Is there anything to sit on, or to rest at, in this room?")
IMAGES = [(name, image) for name in NAMES for image in range(golden(name).num_images)]


class Nearest(NamedTuple):
    """By brute force: is [SEG] said, its largest probability, (h, w) mask, IoU and token there."""

    says_seg: bool
    presence: float
    mask_logits: Tensor
    iou: float
    seg_embedding: Tensor


@torch.inference_mode()
def by_brute_force(
    run: Golden, image: int, question: str, tokens: int, best_of_three: bool = False
) -> Nearest:
    """Every position's whole sequence read anew, with no cache, batch or prefix."""
    network, tokenizer = run.loaded.network, run.loaded.tokenizer
    pixels = run.image(image)
    clip = network.image_tokens(run.loaded.clip_transform(pixels)[None])
    ids = run.prompt_ids(question)
    probabilities, states = [], []
    for _ in range(tokens):
        state = lisa_slow.whole_states(run.loaded, ids, clip)[-1]
        exponents = network.language_model.lm_head(state).double()
        exponents = (exponents - exponents.max()).exp()
        probabilities.append(float(exponents[tokenizer.seg_id] / exponents.sum()))
        states.append(state)
        ids.append(int(exponents.argmax()))
        if ids[-1] in (tokenizer.eos_id, tokenizer.seg_id):
            break
    place = int(np.argmax(probabilities))
    embedding = network.seg_head(states[place][None])
    sam = network.sam_embedding(sam_pixels(pixels, network.config.sam_size)[0][None])
    masks, iou = network.decode_masks(sam, embedding[None], best_of_three)
    says_seg = ids[-1] == tokenizer.seg_id
    return Nearest(says_seg, probabilities[place], masks[0, 0], float(iou[0, 0]), embedding[0])


def check(answer: TeacherAnswer, wanted: Nearest) -> None:
    assert answer.presence == pytest.approx(wanted.presence, rel=1e-3, abs=1e-7)
    if wanted.says_seg:
        assert answer.withheld is None and len(answer.mask_logits) == 1
        return
    assert len(answer.mask_logits) == 0 and answer.withheld is not None
    assert answer.withheld.mask_logits.dtype == answer.withheld.seg_embedding.dtype == np.float32
    assert far(answer.withheld.mask_logits, wanted.mask_logits) <= TOLERANCE
    assert far(answer.withheld.seg_embedding, wanted.seg_embedding) <= TOLERANCE
    assert answer.withheld.predicted_iou == pytest.approx(min(max(wanted.iou, 0), 1), abs=TOLERANCE)


@pytest.mark.parametrize(("name", "image"), IMAGES)
def test_presence_and_held_back_masks_are_those_of_the_nearest_state(name: str, image: int) -> None:
    run = golden(name)
    texts = [*(sample["question"] for sample in run.samples(image).values()), *MORE]
    answers = run.teacher(whole_answer=False, max_new_tokens=12).answer(run.view(image), texts)
    for text, answer in zip(texts, answers, strict=True):
        check(answer, by_brute_force(run, image, text, 12))


@pytest.mark.parametrize("name", NAMES)
def test_both_kinds_of_answers_are_among_them(name: str) -> None:
    counts = [sample["n_seg"] for sample in golden(name).facts["samples"]]
    assert 0 in counts and max(counts) > 0


def test_the_best_of_three_is_held_back_too() -> None:
    run = golden("v1")
    question = list(run.samples(1).values())[1]["question"]
    teacher = run.teacher(whole_answer=False, best_of_three=True)
    (answer,) = teacher.answer(run.view(1), [question])
    wanted = by_brute_force(run, 1, question, 32, best_of_three=True)
    assert not wanted.says_seg
    check(answer, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_answers_with_seg_are_what_they_were(name: str) -> None:
    """The masks that are said are those of the golden runs, whoever else holds one back."""
    run = golden(name)
    for image in range(run.num_images):
        samples = run.samples(image)
        answers = run.teacher().answer(run.view(image), [s["question"] for s in samples.values()])
        for (number, sample), answer in zip(samples.items(), answers, strict=True):
            assert answer.mask_logits.shape[0] == sample["n_seg"]
            assert (answer.withheld is None) == (sample["n_seg"] > 0)
            assert far(answer.mask_logits, run.array(number, "low_res_masks")[:, 0]) <= TOLERANCE
            assert far(answer.seg_embeddings, run.array(number, "seg_embedding")) <= TOLERANCE


def test_the_likeliest_place_need_not_be_the_first_or_the_last() -> None:
    """Over all questions the nearest state is found at more than one place of an answer."""
    run = golden("v1")
    places = set()
    for image in range(run.num_images):
        for text in (*(s["question"] for s in run.samples(image).values()), *MORE):
            prompt = build_prompt(text, run.facts["conv_type"], run.facts["use_im_start_end"])
            slow = lisa_slow.answer(run.loaded, run.image(image), prompt, 12, first_seg=True)
            shares = slow.step_logits.double().softmax(dim=1)[:, run.loaded.tokenizer.seg_id]
            places.add(int(shares.argmax()))
    assert len(places) > 1


def test_a_refusal_is_given_from_its_probability_on() -> None:
    run = golden("v1")
    question = list(run.samples(0).values())[0]["question"]
    tokenizer, image = run.loaded.tokenizer, 0
    (plain,) = run.teacher(whole_answer=True, max_new_tokens=6).answer(run.view(image), [question])
    # The probability of some other token at the first position, by one forward pass.
    network = run.loaded.network
    with torch.inference_mode():
        clip = network.image_tokens(run.loaded.clip_transform(run.image(image))[None])
        state = lisa_slow.whole_states(run.loaded, run.prompt_ids(question), clip)[-1]
        probs = network.language_model.lm_head(state).double().softmax(-1)
    words = tokenizer.decode([int(i) for i in probs.argsort(descending=True)[1:2]])
    first = tokenizer.encode_part(words, bos=False)[0]
    likely = float(probs[first])
    for least, refused in ((likely * 0.99, True), (likely * 1.01, False)):
        loaded = replace(run.loaded, refusal=Refusal(words, least))
        teacher = LisaTeacher(loaded, run.settings(whole_answer=True, max_new_tokens=6), "v1")
        (answer,) = teacher.answer(run.view(image), [question])
        assert (answer.text != plain.text) is refused
        assert answer.text.startswith(words) is refused
