"""The oracle errs exactly as often as it is told to, and the same way whoever asks when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from models.oracle import (
    NOT_FOUND,
    OracleErrors,
    OracleTeacher,
    code,
    iou,
    ragged,
    seeded,
    signed_distance,
    smooth_noise,
    words_code,
)
from models.teacher import MaskGrid, TeacherAnswer
from stages.configs import TeacherConfig
from stages.network_configs import OracleConfig
from stages.teacher.oracle import InstanceRenderer, make_oracle
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.teacher_world import EXACT, disc_teacher

IMAGE = np.zeros((80, 120, 3), np.uint8)
VIEWS = 400


def _ask(errors: OracleErrors, text: str, num_views: int = VIEWS) -> list[TeacherAnswer]:
    teacher, views = disc_teacher(errors, num_views)
    return [teacher.answer(teacher.encode_view(IMAGE, view), [text])[0] for view in views]


def _truth() -> np.ndarray:
    teacher, views = disc_teacher(EXACT)
    return teacher.encode_view(IMAGE, views[0]).masks


def _plausible(count: int, rate: float, total: int = VIEWS) -> bool:
    return float(binomtest(count, total, rate).pvalue) > 1e-4


def test_rates_of_zero_give_exact_masks() -> None:
    small_chair, large_chair, bed = _truth()
    for text, wanted in (
        ("the small chair", small_chair),
        ("the bed", bed),
        ("a chair or bed", large_chair | bed),
    ):
        (answer,) = _ask(EXACT, text, 1)
        np.testing.assert_array_equal(answer.mask_logits[0] > 0, wanted)
        assert np.abs(answer.mask_logits).max() <= 8
        assert answer.predicted_iou == pytest.approx([0.9])
    (absent,) = _ask(EXACT, "the toilet", 1)
    assert (absent.text, absent.mask_logits.shape) == (NOT_FOUND, (0, 40, 60))


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.8])
def test_each_error_comes_at_its_rate(rate: float) -> None:
    chair, other_chair, bed = _truth()
    missed = _ask(replace(EXACT, miss=rate), "the bed")
    assert _plausible(sum(len(a.mask_logits) == 0 for a in missed), rate)
    made_up = _ask(replace(EXACT, hallucinate=rate), "the toilet")
    assert _plausible(sum(len(a.mask_logits) == 1 for a in made_up), rate)
    confused = _ask(replace(EXACT, confuse=rate), "the small chair")
    masks = [a.mask_logits[0] > 0 for a in confused]
    wrong = [m for m in masks if not np.array_equal(m, chair)]
    assert _plausible(len(wrong), rate)
    assert all(np.array_equal(m, other_chair) for m in wrong), "same label comes first"


def test_targets_of_a_query_are_missed_one_by_one() -> None:
    _, chair, bed = _truth()
    answers = _ask(replace(EXACT, miss=0.5), "a chair or bed")
    masks = [a.mask_logits[0] > 0 if len(a.mask_logits) else np.zeros_like(bed) for a in answers]
    for wanted in (chair, bed, chair | bed, np.zeros_like(bed)):
        assert _plausible(sum(np.array_equal(m, wanted) for m in masks), 0.25)


def test_hallucinations_are_visible_objects_and_believed_less() -> None:
    made_up = _ask(replace(EXACT, hallucinate=1, iou_noise=0.1), "the toilet")
    truth = list(_truth())
    drawn = [next(k for k, t in enumerate(truth) if np.array_equal(t, a.mask_logits[0] > 0))
             for a in made_up]  # fmt: skip
    for k in range(3):
        assert _plausible(drawn.count(k), 1 / 3)
    right = _ask(replace(EXACT, ragged=0.3, iou_noise=0.1), "the bed")
    belief, wrong = (np.array([a.predicted_iou[0] for a in each]) for each in (right, made_up))
    assert belief.mean() > wrong.mean() + 0.15
    auc = np.mean(belief[:, None] > wrong[None])
    assert 0.75 < auc < 0.999, "useful, but no perfect detector"


def test_an_object_is_in_view_from_min_cells_on() -> None:
    """Without its target in view the oracle finds nothing, or another object of the same name."""
    cells = int(_truth()[0].sum())
    for min_cells, found in ((cells, True), (cells + 1, False)):
        (answer,) = _ask(replace(EXACT, min_cells=min_cells), "the small chair", 1)
        assert len(answer.mask_logits) == found
    errors = replace(EXACT, min_cells=cells + 1, hallucinate=1)
    for answer in _ask(errors, "the small chair", 30):
        np.testing.assert_array_equal(answer.mask_logits[0] > 0, _truth()[1])


def test_without_visible_objects_a_hallucination_is_a_disc() -> None:
    teacher = OracleTeacher(
        "s", (1,), ("bed",), lambda view: np.zeros((1, 30, 40), bool), {"bed": (1,)},
        MaskGrid(30, 40, (40.0, 30.0)), replace(EXACT, hallucinate=1, ragged=1),
    )  # fmt: skip
    for view in range(50):
        (answer,) = teacher.answer(teacher.encode_view(IMAGE, str(view)), ["bed"])
        assert np.any(answer.mask_logits > 0)


def test_ragged_borders_keep_the_object_but_move_its_edge() -> None:
    bed = _truth()[2]
    previous = 1.0
    for amount in (0.1, 0.5, 1.0):
        answers = _ask(replace(EXACT, ragged=amount), "the bed", 60)
        quality = float(np.mean([iou(a.mask_logits[0] > 0, bed) for a in answers]))
        assert all(np.any(a.mask_logits > 0) for a in answers)
        assert quality < previous
        previous = quality
    assert 0.3 < previous < 0.8


def test_predicted_iou_follows_the_true_iou() -> None:
    bed = _truth()[2]
    answers = _ask(replace(EXACT, ragged=0.6, iou_noise=0.05), "the bed")
    true = [iou(a.mask_logits[0] > 0, bed) for a in answers]
    assert np.corrcoef(true, [a.predicted_iou[0] for a in answers])[0, 1] > 0.5


def test_answers_do_not_depend_on_order_or_company() -> None:
    errors = OracleErrors(3, 0.4, 0.2, 0.3, 0.4, 0.3, 0.15, 4)
    texts = ["the small chair", "the bed", "the toilet", "a chair or bed"]
    teacher, views = disc_teacher(errors, 6)
    together = {
        (v, t): a for v in views for t, a in zip(texts, _answers(teacher, v, texts), strict=True)
    }
    other, _ = disc_teacher(errors)
    for view in reversed(views):
        for text in reversed(texts):
            (alone,) = _answers(other, view, [text])
            for name in ("text", "mask_logits", "predicted_iou", "seg_embeddings"):
                np.testing.assert_array_equal(
                    getattr(alone, name), getattr(together[view, text], name)
                )
    seeds = [_ask(replace(errors, seed=s), "the bed", 20) for s in (3, 4)]
    assert any(
        a.mask_logits.shape != b.mask_logits.shape or np.any(a.mask_logits != b.mask_logits)
        for a, b in zip(*seeds, strict=True)
    )


def _answers(teacher: OracleTeacher, view: str, texts: list[str]) -> list[TeacherAnswer]:
    return teacher.answer(teacher.encode_view(IMAGE, view), texts)


def test_tokens_tell_what_was_masked() -> None:
    def unit(vector: np.ndarray) -> np.ndarray:
        return np.asarray(vector / np.linalg.norm(vector))

    (exact,) = _ask(EXACT, "the bed", 1)
    words = (code("the") + code("bed")) / 2
    np.testing.assert_allclose(exact.seg_embeddings[0], unit(code("bed") + 0.5 * words), atol=1e-6)
    noisy = _ask(replace(EXACT, token_noise=0.3, confuse=0.5), "the small chair", 50)
    tokens = np.concatenate([a.seg_embeddings for a in noisy])
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-6)
    assert np.all(tokens @ code("chair") > 0.6), "confusing two chairs leaves no trace in the token"


def test_codes_are_fixed_unit_vectors() -> None:
    assert code("bed") @ code("bed") == pytest.approx(1)
    assert abs(code("bed") @ code("sofa")) < 0.5
    assert not words_code("...").any()
    wanted = (code("red") + code("chair")) / 2
    np.testing.assert_allclose(words_code("Red, CHAIR?"), wanted)
    assert seeded("a", 1).integers(1 << 30) == seeded("a", "1").integers(1 << 30)
    assert seeded("a", 1).integers(1 << 30) != seeded("a1").integers(1 << 30)


def test_signed_distance_and_noise() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:5] = True
    distance = signed_distance(mask)
    assert (distance[2, 3], distance[1, 2], distance[0, 3], distance[2, 0]) == (
        1.5,
        0.5,
        -0.5,
        -1.5,
    )
    assert np.all(signed_distance(np.zeros((4, 4), bool)) == -8)
    assert np.all(signed_distance(np.ones((4, 4), bool)) == 8)
    noise = np.stack([smooth_noise(seeded(i), 40, 60) for i in range(50)])
    assert abs(noise.mean()) < 0.1 and 0.9 < noise.std() < 1.1
    steps = np.abs(np.diff(noise, axis=2)).mean()
    assert steps < 0.4, "neighbours hardly differ"
    np.testing.assert_array_equal(ragged(distance, 0, seeded(1)), distance)
    assert ragged(distance, 50, seeded(1)).max() > 0


def test_instances_are_rendered_with_occlusion_and_overlap() -> None:
    scene, truth = make_tiny_scene()
    renderer = InstanceRenderer(scene, truth, stride=2)
    assert renderer.grid == (48, 64, (64.0, 48.0))
    for index, view in enumerate(scene.views):
        masks = renderer.masks(view.view_id)
        assert masks.shape == (3, 48, 64)
        seen = np.isin(np.arange(3), np.flatnonzero(masks.any(axis=(1, 2))))
        assert seen.any(), f"view {index} looks at the middle of the room"
        assert not np.any(masks.sum(axis=0) > 1), "these boxes do not overlap"
    overlapping = replace(
        truth,
        object_ids=(*truth.object_ids, 99),
        labels=(*truth.labels, "everything"),
        point_ids=np.concatenate([truth.point_ids, np.sort(truth.point_ids)]),
        offsets=np.append(truth.offsets, 2 * len(truth.point_ids)),
    )
    masks = InstanceRenderer(scene, overlapping, 2).masks("view0")
    np.testing.assert_array_equal(masks[3], masks[:3].any(axis=0))


def test_make_oracle_knows_words_only() -> None:
    scene, truth = make_tiny_scene()
    prompts, truths = make_tiny_prompts()
    cfg = TeacherConfig(oracle=OracleConfig(
        ragged=0, miss=0, confuse=0, hallucinate=0, token_noise=0, iou_noise=0, min_cells=1,
        stride=2))  # fmt: skip
    twin = replace(prompts[1], prompt_id="twin", text=prompts[0].text)
    teacher = make_oracle(
        scene, truth, [*prompts, twin], [*truths, replace(truths[1], prompt_id="twin")], cfg
    )
    view = teacher.encode_view(IMAGE, "view0")
    (answer,) = teacher.answer(view, [prompts[0].text])
    wanted = view.masks[0] | view.masks[1]
    np.testing.assert_array_equal(answer.mask_logits[0] > 0, wanted)
    with pytest.raises(ValueError, match="no truth"):
        make_oracle(scene, truth, prompts, truths[1:], cfg)
    with pytest.raises(KeyError, match="77"):
        make_oracle(scene, truth, prompts, [replace(truths[0], object_ids=(77,)), *truths[1:]], cfg)
    with pytest.raises(KeyError):
        teacher.answer(view, ["something never announced"])


def test_wrong_shapes_are_refused() -> None:
    grid = MaskGrid(4, 4, (4.0, 4.0))
    with pytest.raises(ValueError, match="labels"):
        OracleTeacher("s", (1, 2), ("bed",), lambda v: np.zeros((2, 4, 4), bool), {}, grid, EXACT)
    teacher = OracleTeacher(
        "s", (1,), ("bed",), lambda v: np.zeros((1, 5, 4), bool), {}, grid, EXACT
    )
    with pytest.raises(ValueError, match=r"\(1, 5, 4\), expected \(1, 4, 4\)"):
        teacher.encode_view(IMAGE, "v")
