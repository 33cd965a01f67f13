"""LISA's answers against golden runs and the slow path, and the mistakes these tell apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.reference import lisa_slow
from models.lisa.checkpoint import load_lisa
from models.lisa.generation import Stop, _Batch, decode
from models.lisa.prompts import build_prompt
from models.lisa.teacher import FullAnswer, LisaTeacher
from tests.support.worlds.lisa_golden import NAMES, TOLERANCE, Golden, far, golden

IMAGES = [(name, image) for name in NAMES for image in range(golden(name).num_images)]


def _answered(
    teacher: LisaTeacher, run: Golden, view: Any, texts: list[str]
) -> tuple[list[FullAnswer], list[Tensor]]:
    """Per text the answer, and (steps, vocabulary): what the output layer gave.

    Steps of dropped rows are put right.
    """
    steps: list[Tensor] = []
    head = run.loaded.network.language_model.lm_head
    hook = head.register_forward_hook(lambda *args: steps.append(args[2]))
    try:
        answers = teacher.answers_in_full(view, texts)
    finally:
        hook.remove()
    # Rows begin in order of length of the question. They leave when their answer is whole, and
    # the last ones that stay take their places.
    rows = sorted(range(len(texts)), key=lambda row: len(run.suffix(texts[row])))
    logits: list[list[Tensor]] = [[] for _ in texts]
    lengths = [len(a.output_ids) - len(run.prompt_ids(t)) for a, t in zip(answers, texts)]
    for step, given in enumerate(steps):
        count = len(given)
        later = [row for row in rows[count:] if lengths[row] > step]
        rows = [row if lengths[row] > step else later.pop(0) for row in rows[:count]]
        assert not later
        for row, values in zip(rows, given, strict=True):
            logits[row].append(values)
    return answers, [torch.stack(row) for row in logits]


@pytest.mark.parametrize(("name", "image"), IMAGES)
@pytest.mark.parametrize("batched", [False, True])
def test_answers_equal_the_golden_runs(name: str, image: int, batched: bool) -> None:
    run = golden(name)
    teacher, view, samples = run.teacher(), run.view(image), run.samples(image)
    questions = [sample["question"] for sample in samples.values()]
    asked = [questions] if batched else [[question] for question in questions]
    answered = [_answered(teacher, run, view, group) for group in asked]
    answers = [answer for group, _ in answered for answer in group]
    logits = [row for _, rows in answered for row in rows]
    for (number, sample), answer, steps in zip(samples.items(), answers, logits, strict=True):
        assert answer.output_ids.tolist() == run.array(number, "output_ids").tolist()
        assert answer.text == sample["answer"]
        assert [answer.text[a:b] for a, b in answer.spans] == ["[SEG]"] * sample["n_seg"]
        stride = sample["mask_logits_stride"]
        shown = answer.mask_logits[:, ::stride, ::stride]
        expected = run.array(number, "mask_logits")
        assert answer.mask_logits.shape == tuple(sample["mask_shape"])
        assert far(shown, expected) <= TOLERANCE
        assert np.array_equal(shown > 0, expected > 0)
        assert far(answer.seg_embedding, run.array(number, "seg_embedding")) <= TOLERANCE
        assert far(answer.low_res_masks, run.array(number, "low_res_masks")) <= TOLERANCE
        assert far(answer.iou, run.array(number, "iou_predictions")) <= TOLERANCE
        assert far(steps[0], run.array(number, "first_step_logits")) <= TOLERANCE
        assert far(steps[-1], run.array(number, "last_step_logits")) <= TOLERANCE


@pytest.mark.parametrize(("name", "image"), IMAGES)
def test_best_of_three_equals_the_golden_runs(name: str, image: int) -> None:
    run, samples = golden(name), golden(name).samples(image)
    teacher = run.teacher(best_of_three=True)
    answers = teacher.answers_in_full(run.view(image), [s["question"] for s in samples.values()])
    for (number, sample), answer in zip(samples.items(), answers, strict=True):
        best = np.array(sample["multimask_argmax"], np.int64)[:, None]
        iou = run.array(number, "multimask_iou")
        assert far(answer.iou, np.take_along_axis(iou, best, 1)) <= TOLERANCE
        low_res = run.array(number, "multimask_low_res")
        chosen = np.take_along_axis(low_res, best[..., None, None], 1)
        assert far(answer.low_res_masks, chosen) <= TOLERANCE
        if sample["n_seg"]:
            stride = sample["multimask_best_stride"]
            logits = answer.mask_logits[:, ::stride, ::stride]
            assert far(logits, run.array(number, "multimask_best_logits")) <= TOLERANCE


@pytest.mark.parametrize(("name", "image"), IMAGES)
def test_what_a_view_holds_equals_the_golden_runs(name: str, image: int) -> None:
    run = golden(name)
    network, tensors, view = run.loaded.network, run.tensors, run.view(image)
    pixels = run.loaded.clip_transform(run.image(image))[None]
    stride = 1 if image == 0 else 8
    features, tokens = network.clip_features(pixels), network.image_tokens(pixels)
    assert far(features[0, ::stride], tensors[f"image{image}__clip_patch_features"]) <= TOLERANCE
    assert far(tokens[0, ::stride], tensors[f"image{image}__projected_image_tokens"]) <= TOLERANCE
    embedding = tensors[f"image{image}__sam_image_embedding"]
    assert far(view.sam_embedding[0], embedding) <= TOLERANCE
    assert far(network.dense_positions()[0], tensors["sam__dense_pe"]) <= TOLERANCE
    assert list(view.resized) == next(iter(run.samples(image).values()))["resized_size"]


@pytest.mark.parametrize(("name", "image"), IMAGES)
def test_states_before_seg_equal_the_golden_runs(name: str, image: int) -> None:
    run, samples = golden(name), golden(name).samples(image)
    tokenizer = run.loaded.tokenizer
    stop = Stop(tokenizer.eos_id, tokenizer.seg_id, run.facts["max_new_tokens"], False)
    suffixes = [run.suffix(sample["question"]) for sample in samples.values()]
    model = run.loaded.network.language_model
    with torch.inference_mode():
        decoded = decode(model, [run.view(image).prefix] * len(suffixes), suffixes, stop)
    for number, answer in zip(samples, decoded, strict=True):
        hidden = run.array(number, "seg_hidden")
        assert len(answer.seg_states) == len(hidden)
        for ours, theirs in zip(answer.seg_states, hidden, strict=True):
            assert far(ours, theirs) <= TOLERANCE


def _forced_embeddings(run: Golden, image: int, offset: int) -> tuple[Tensor, Tensor]:
    """[SEG] embeddings and masks of the teacher-forced batch, from states ``offset`` from [SEG]."""
    ids = run.tensors[f"forced_image{image}__input_ids"]
    real = run.tensors[f"forced_image{image}__attention_mask"]
    view, network = run.view(image), run.loaded.network
    cut = len(view.prefix.ids)
    suffixes = [row[mask][cut:].tolist() for row, mask in zip(ids, real)]
    with torch.inference_mode():
        prefixes = [view.prefix] * len(suffixes)
        states = _Batch(network.language_model, prefixes, suffixes, 0).states
        asking = [
            states[row, place + offset]
            for row, suffix in enumerate(suffixes)
            for place, token in enumerate(suffix)
            if token == run.loaded.tokenizer.seg_id
        ]
        embeddings = network.seg_head(torch.stack(asking))
        return embeddings, network.decode_masks(view.sam_embedding, embeddings[None])[0][0]


FORCED = [
    (name, forced["image_index"]) for name in NAMES for forced in golden(name).facts["forced"]
]


@pytest.mark.parametrize(("name", "image"), FORCED)
def test_forced_answers_equal_the_golden_batch(name: str, image: int) -> None:
    run = golden(name)
    embeddings, low_res = _forced_embeddings(run, image, offset=-1)
    expected = run.tensors[f"forced_image{image}__seg_embedding"]
    assert far(embeddings, expected) <= TOLERANCE
    expected = run.tensors[f"forced_image{image}__low_res_masks"][:, 0]
    assert far(low_res, expected) <= TOLERANCE


@pytest.mark.parametrize(("name", "image"), FORCED)
def test_the_state_at_seg_itself_is_wrong(name: str, image: int) -> None:
    run = golden(name)
    embeddings, low_res = _forced_embeddings(run, image, offset=0)
    assert far(embeddings, run.tensors[f"forced_image{image}__seg_embedding"]) > 100 * TOLERANCE
    expected = run.tensors[f"forced_image{image}__low_res_masks"][:, 0]
    assert far(low_res, expected) > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_of_clip_is_wrong(name: str) -> None:
    run = golden(name)
    loaded = load_lisa(run.checkpoint)
    loaded.network.config = replace(loaded.network.config, select_layer=-1)
    pixels = loaded.clip_transform(run.image(0))[None]
    tokens = loaded.network.image_tokens(pixels)[0]
    assert far(tokens, run.tensors["image0__projected_image_tokens"]) > 100 * TOLERANCE
    teacher = run.teacher(loaded)
    view = teacher.encode_view(run.image(0), "img0")
    first = run.samples(0)[0]
    answer = teacher.answers_in_full(view, [first["question"]])[0]
    same_ids = answer.output_ids.tolist() == run.array(0, "output_ids").tolist()
    off = far(answer.seg_embedding, run.array(0, "seg_embedding"))
    assert not same_ids or off > 10 * TOLERANCE


@pytest.mark.parametrize(("name", "image"), IMAGES)
def test_answers_equal_the_slow_path(name: str, image: int) -> None:
    run = golden(name)
    questions = [sample["question"] for sample in run.samples(image).values()]
    texts = [*questions, "the door", "Is there anything to sit on, or to rest at, in this room?"]
    teacher, view = run.teacher(max_new_tokens=12), run.view(image)
    answers, logits = _answered(teacher, run, view, texts)
    for text, answer, steps in zip(texts, answers, logits, strict=True):
        prompt = build_prompt(text, run.facts["conv_type"], run.facts["use_im_start_end"])
        slow = lisa_slow.answer(run.loaded, run.image(image), prompt, 12)
        assert answer.output_ids.tolist() == slow.output_ids
        assert far(steps, slow.step_logits) <= TOLERANCE
        assert far(answer.low_res_masks[:, 0], slow.low_res_masks) <= TOLERANCE
        assert far(answer.iou[:, 0], slow.iou) <= TOLERANCE


def test_the_slow_path_equals_the_golden_run() -> None:
    run = golden("v1")
    for number, sample in run.samples(2).items():
        slow = lisa_slow.answer(run.loaded, run.image(2), sample["prompt"], 32)
        assert slow.output_ids == run.array(number, "output_ids").tolist()
        assert far(slow.seg_hidden, run.array(number, "seg_hidden")) <= TOLERANCE
        assert far(slow.low_res_masks, run.array(number, "low_res_masks")[:, 0]) <= TOLERANCE
