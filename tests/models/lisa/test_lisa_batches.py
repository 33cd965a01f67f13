"""What LISA computes together, questions, views and masks, and that it changes no answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.lisa import generation
from models.lisa.network import LisaConfig
from models.teacher import ManyViewsTeacher
from tests.support.worlds.lisa_golden import NAMES, TOLERANCE, far, golden


@pytest.mark.parametrize(
    ("limit", "value"),
    [("_MOST_ROWS", {"cpu": 2}), ("_CACHE_BYTES", 1), ("_MOST_MASKS", {"cpu": 1})],
)
def test_smaller_batches_give_the_same(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: Any
) -> None:
    run = golden("v1")
    texts = [sample["question"] for sample in run.facts["samples"]]
    teacher, view = run.teacher(), run.view(2)
    together = teacher.answer(view, texts)
    monkeypatch.setattr(generation, limit, value)
    for one, other in zip(together, teacher.answer(view, texts), strict=True):
        assert one.text == other.text
        assert far(one.mask_logits, other.mask_logits) <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_views_together_are_answered_like_each_by_itself(name: str) -> None:
    run = golden(name)
    teacher = run.teacher()
    assert isinstance(teacher, ManyViewsTeacher) and teacher.views_at_once == 4
    images = [run.image(0), np.ascontiguousarray(run.image(0)[:-9, ::-1]), run.image(1)]
    texts = ["the red chair", "Where is the table in this image?", "the red chair", "x"]
    views = teacher.encode_views(images, ["a", "b", "c"])
    together = teacher.answer_views(views, texts)
    assert [view.view_id for view in views] == ["a", "b", "c"]
    for image, view, answers in zip(images, views, together, strict=True):
        alone = teacher.encode_view(image, view.view_id)
        assert view.size == image.shape[:2] and view.resized == alone.resized
        for text, one, other in zip(texts, answers, teacher.answer(alone, texts), strict=True):
            assert one.text == other.text, text
            assert far(one.mask_logits, other.mask_logits) <= TOLERANCE
            assert far(one.seg_embeddings, other.seg_embeddings) <= TOLERANCE


def test_a_gpu_is_given_as_many_views_as_a_share_of_its_free_memory_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = golden("v1").loaded.network.config
    # SAM of the published size: 64 x 64 cells, 16 heads, so 3 * 4 * 16 * 4096**2 bytes, 3.2 GB.
    vision = SimpleNamespace(num_attention_heads=16)
    published = cast(LisaConfig, SimpleNamespace(sam_grid=64, sam_vision=vision))
    device = torch.device("cuda")
    for gigabytes, wanted in ((2, 1), (20, 1), (40, 3), (80, 6), (141, 8)):
        monkeypatch.setattr(generation, "_free_bytes", lambda _, free=gigabytes: free * 10**9)
        assert generation.views_at_once(published, device) == wanted
        assert generation.views_at_once(config, device) == 8
    monkeypatch.undo()
    device = torch.device("cpu")
    assert generation.views_at_once(published, device) == 1
    assert generation.views_at_once(config, device) == 4
    assert [generation.mask_parts(n, device) for n in (1, 8, 9, 20)] == [1, 1, 2, 3]
    assert [generation.mask_parts(n, torch.device("cuda")) for n in (1, 64, 65)] == [1, 1, 2]
    assert generation.rows_at_once(10**9, device) == 2 and generation.rows_at_once(1, device) == 128
