"""How a LISA teacher is asked: the protocol, batches and memory, odd texts, limits, settings."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from data.errors import UserError
from models.lisa.checkpoint import load_lisa
from models.lisa.tokenizer import IMAGE_TOKEN_ID
from models.teacher import check_teacher
from tests.support.worlds.lisa_golden import NAMES, TOLERANCE, far, golden


def test_stopping_at_the_first_seg_gives_its_mask() -> None:
    run = golden("v1")
    view, question = run.view(2), run.samples(2)[4]["question"]
    (whole,) = run.teacher().answer(view, [question])
    (first,) = run.teacher(whole_answer=False).answer(view, [question])
    assert whole.text == "[SEG], [SEG] and [SEG]."
    assert first.text == "[SEG]"
    assert whole.mask_logits.shape == (3, 32, 32)
    assert first.mask_logits.shape == (1, 32, 32)
    assert far(first.mask_logits[0], whole.mask_logits[0]) <= TOLERANCE
    assert far(first.seg_embeddings[0], whole.seg_embeddings[0]) <= TOLERANCE


def test_answers_are_what_the_protocol_asks_for() -> None:
    run = golden("v1")
    teacher, view = run.teacher(), run.view(1)
    lamp, time = run.samples(1).values()
    seen, unseen = teacher.answer(view, [lamp["question"], time["question"]])
    grid = teacher.mask_grid(*lamp["original_size"])
    assert (teacher.name, teacher.embedding_dim) == ("lisa", 32)
    assert (grid.height, grid.width) == (32, 32)
    assert grid.extent == (82 / 128 * 32, 32.0)
    for answer, num_seg in ((seen, 1), (unseen, 0)):
        assert answer.mask_logits.shape == (num_seg, 32, 32)
        assert answer.predicted_iou.shape == (num_seg,)
        assert answer.seg_embeddings.shape == (num_seg, 32)
        for array in (answer.mask_logits, answer.predicted_iou, answer.seg_embeddings):
            assert array.dtype == np.float32
        assert np.all((answer.predicted_iou >= 0) & (answer.predicted_iou <= 1))
    assert unseen.text == "There is no clock."


@pytest.mark.parametrize("name", NAMES)
def test_the_protocol_is_kept(name: str) -> None:
    run = golden(name)
    images = [run.image(index) for index in range(run.num_images)]
    texts = [sample["question"] for sample in run.facts["samples"]]
    checked = check_teacher(run.teacher, images, texts)
    assert checked.num_answers > checked.num_with_masks > 0


def test_masks_lie_on_the_image_where_the_grid_says() -> None:
    # Reading the low-resolution logits at a pixel's place on the grid gives those at the pixel.
    run = golden("v1")
    teacher = run.teacher()
    for image in range(run.num_images):
        view = run.view(image)
        texts = [sample["question"] for sample in run.samples(image).values()]
        full = teacher.answers_in_full(view, texts)[0]
        height, width = view.size
        columns, rows = teacher.mask_grid(height, width).extent
        y = (np.arange(height) + 0.5) / height * rows - 0.5
        x = (np.arange(width) + 0.5) / width * columns - 0.5
        places = np.meshgrid(y, x, indexing="ij")
        sampled = map_coordinates(full.low_res_masks[0, 0], places, order=1, mode="nearest")
        assert np.abs(sampled - full.mask_logits[0]).mean() < 0.1 * np.abs(sampled).mean()


def test_neither_company_nor_order_nor_repetition_changes_an_answer() -> None:
    run = golden("v1")
    teacher, view = run.teacher(), run.view(0)
    kept = [tensor.clone() for tensor in (*view.prefix.keys, *view.prefix.values)]
    texts = ["the red chair", "a lamp", "Where is the table in this image?", "the red chair", "x"]
    alone = [teacher.answer(view, [text])[0] for text in texts]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [3], [0, 1, 2, 3, 4]):
        for place, answer in zip(order, teacher.answer(view, [texts[i] for i in order])):
            assert answer.text == alone[place].text
            assert far(answer.mask_logits, alone[place].mask_logits) <= TOLERANCE
            assert far(answer.seg_embeddings, alone[place].seg_embeddings) <= TOLERANCE
    for before, after in zip(kept, (*view.prefix.keys, *view.prefix.values), strict=True):
        assert torch.equal(before, after)


def test_a_view_is_encoded_once_and_its_masks_are_asked_for_at_once() -> None:
    run = golden("v1")
    network = run.loaded.network
    parts = (network.vision_tower, network.image_encoder, network.mask_decoder)
    calls = {type(part).__name__: 0 for part in parts}
    rows: list[int] = []

    def count(part: torch.nn.Module, *_: Any) -> None:
        calls[type(part).__name__] += 1

    hooks = [part.register_forward_hook(count) for part in parts]
    head = network.language_model.lm_head
    hooks.append(head.register_forward_hook(lambda *args: rows.append(len(args[1][0]))))
    try:
        view = run.teacher().encode_view(run.image(0), "img0")
        texts = [sample["question"] for sample in run.facts["samples"]]
        answers = run.teacher().answer(view, texts)
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(len(answer.mask_logits) for answer in answers) > 1
    assert calls == {"CLIPVisionModel": 1, "SamVisionEncoder": 1, "SamMaskDecoder": 1}
    # Rows whose answer is whole are read no further.
    assert rows[0] == len(texts)
    assert sorted(rows, reverse=True) == rows
    assert rows[-1] < rows[0]


def test_a_view_leaves_nothing_behind() -> None:
    run = golden("v1")
    teacher = run.teacher()
    view = teacher.encode_view(run.image(0), "img0")
    held = [weakref.ref(tensor) for tensor in (view.sam_embedding, *view.prefix.keys)]
    answers = teacher.answer(view, ["the chair", "a lamp"])
    del view
    gc.collect()
    assert len(answers) == 2
    assert all(reference() is None for reference in held)


def test_no_texts_give_no_answers() -> None:
    run = golden("v1")
    view = run.view(0)
    assert run.teacher().answer(view, []) == []
    assert run.teacher().answers_in_full(view, []) == []


def test_odd_texts_are_answered() -> None:
    run = golden("plus")
    texts = [
        "",
        " ",
        "椅子はどこ?",
        "\U0001f6cb\ufe0f \u202eriahc",
        "\ud800",
        "a\x00b\n\n",
        "chair " * 300,
    ]
    texts += ["<image> the [SEG] <im_start>chair<im_end>", "the chair"]
    teacher = run.teacher(question_form="auto", max_new_tokens=4)
    answers = teacher.answer(run.view(0), texts)
    assert len(answers) == len(texts)
    plain, marked = (teacher.answers_in_full(run.view(0), [text])[0] for text in texts[-2:])
    assert (plain.output_ids == IMAGE_TOKEN_ID).sum() == 1
    assert (marked.output_ids == IMAGE_TOKEN_ID).sum() == 1


def test_a_query_longer_than_the_model_can_read_is_refused() -> None:
    run = golden("v1")
    with pytest.raises(UserError, match=r"takes \d+ tokens, and the model has room for 6\d\d"):
        run.teacher().answer(run.view(0), ["the chair", "chair, " * 3000])


def test_an_answer_ends_with_the_last_position() -> None:
    run = golden("v1")
    loaded, question = load_lisa(run.checkpoint), run.samples(0)[1]["question"]
    view = run.view(0)
    used = view.prefix.length + len(run.suffix(question))
    loaded.network.language_model.config.max_position_embeddings = used + 2
    (answer,) = run.teacher(loaded).answers_in_full(view, [question])
    prompt = len(run.prompt_ids(question))
    expected = run.array(1, "output_ids")[: prompt + 3]
    assert answer.output_ids.tolist() == expected.tolist()


@pytest.mark.parametrize("tokens", [1, 3])
def test_answers_are_no_longer_than_asked_for(tokens: int) -> None:
    run = golden("v1")
    question = run.samples(0)[1]["question"]
    (answer,) = run.teacher(max_new_tokens=tokens).answers_in_full(run.view(0), [question])
    expected = run.array(1, "output_ids")[: len(run.prompt_ids(question)) + tokens]
    assert answer.output_ids.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_gives_the_same_texts_and_much_the_same_masks(dtype: Any) -> None:
    run = golden("v1")
    low = run.teacher(load_lisa(run.checkpoint, dtype=dtype))
    for image in range(run.num_images):
        texts = [sample["question"] for sample in run.samples(image).values()]
        view = low.encode_view(run.image(image), "")
        assert view.prefix.keys[0].dtype == getattr(torch, dtype)
        assert view.sam_embedding.dtype == torch.float32
        exact = run.teacher().answer(run.view(image), texts)
        for ours, theirs in zip(low.answer(view, texts), exact, strict=True):
            assert ours.text == theirs.text
            assert ours.mask_logits.dtype == np.float32
            inside, meant = ours.mask_logits > 0, theirs.mask_logits > 0
            for one, other in zip(inside, meant, strict=True):
                assert (one & other).sum() >= 0.97 * (one | other).sum()


def test_task_suffixes_and_question_forms_reach_the_prompt() -> None:
    run = golden("plus")
    first = run.samples(0)[0]
    teacher = run.teacher(task_suffix="instance")
    (answer,) = teacher.answers_in_full(
        run.view(0), ["Please segment the chairs separately in this image."]
    )
    assert answer.output_ids.tolist() == run.array(0, "output_ids").tolist()
    assert answer.text == first["answer"]


def test_a_view_of_other_settings_is_refused() -> None:
    run = golden("v1")
    view = run.teacher(use_start_end=False).encode_view(run.image(0), "img0")
    with pytest.raises(ValueError, match="begin"):
        run.teacher().answer(view, ["the chair"])


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"task_suffix": "panoptic"}, "panoptic"), ({"max_new_tokens": 0}, "max_new_tokens")],
)
def test_settings_that_cannot_be_served_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        golden("v1").teacher(**changed)
