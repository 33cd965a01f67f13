"""What LISA-nano is trained for, and that training gives the same bits however it goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from data.rooms.teacher_questions import KINDS
from models.lisa import trainee as trainee_module
from models.lisa.trainee import NanoTrainee
from stages.nano import train
from stages.nano.batches import NO_COLOR, UNKNOWN, Asking, Batch
from stages.nano.configs import NanoTrainConfig
from tests.support.warm import forkserver
from tests.support.worlds.nano_world import (
    answers,
    nano_data,
    small_config,
    small_work,
    untrained,
    write_shard,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Two pictures, three questions each."""
    data = nano_data(tmp_path_factory.mktemp("nano") / "shard")
    kinds = {kind: rate for kind, rate in KINDS.items() if kind != "stranger"}
    return data.batch(np.random.default_rng(0), 2, 3, Asking(kinds))


def test_strangers_teach_the_language_and_no_prompt(trainee: NanoTrainee, tmp_path: Path) -> None:
    data = nano_data(tmp_path / "shard")
    batch = data.batch(np.random.default_rng(0), 2, 3, Asking({"stranger": 1.0}))
    assert (batch.labels == UNKNOWN).all() and not batch.shown.any() and not batch.prompted.any()
    assert not batch.masks.any()
    _, language, borrowed = both_stages(trainee, batch)
    assert all(torch.equal(language[name], borrowed[name]) for name in language)
    assert float(language["language"]) > 0 and float(language["align"]) == 0


@pytest.fixture(scope="module")
def trainee() -> NanoTrainee:
    with patch.object(trainee_module, "nano_config", small_config):
        return untrained()


def of_masks(batch: Batch, masks: Tensor, shown: list[bool]) -> Batch:
    """One picture whose answers have these masks (K, h, w)."""
    return replace(batch, masks=masks[None].float(), shown=torch.tensor([shown]))


def logits_of(masks: Tensor, side: int) -> Tensor:
    """Sure logits (1, K, side, side) of masks (K, h, w); the padding beyond them is noise."""
    logits = 30 * torch.randn(1, len(masks), side, side)
    logits[0, :, : masks.shape[1], : masks.shape[2]] = 40.0 * masks.float() - 20.0
    return logits


def squares(*extents: tuple[int, int, int, int]) -> Tensor:
    """Masks (K, 8, 12) of rectangles (top, bottom, left, right)."""
    masks = torch.zeros(len(extents), 8, 12)
    for mask, (top, bottom, left, right) in zip(masks, extents):
        mask[top:bottom, left:right] = 1
    return masks


def test_perfect_masks_cost_nothing(batch: Batch) -> None:
    masks = squares((0, 4, 0, 6), (2, 8, 3, 4), (0, 0, 0, 0))
    one = of_masks(batch, masks, [True, True, False])
    found = train.mask_losses(logits_of(masks, 12), torch.tensor([[1.0, 1.0, 0.0]]), one)
    assert float(found["bce"]) < 1e-6
    assert float(found["dice"]) < 1e-5
    assert float(found["iou"]) == 0
    assert float(found["reached"]) == 1


def test_a_mask_of_what_is_absent_is_punished(batch: Batch) -> None:
    wanted = squares((0, 4, 0, 6), (0, 0, 0, 0))
    drawn = squares((0, 4, 0, 6), (0, 8, 0, 12))
    one = of_masks(batch, wanted, [True, False])
    good = train.mask_losses(logits_of(wanted, 12), torch.ones(1, 2), one)
    bad = train.mask_losses(logits_of(drawn, 12), torch.ones(1, 2), one)
    assert float(bad["bce"]) > 5 > 1e-3 > float(good["bce"])
    # Belief in it is, too: the IoU of anything with nothing is 0.
    assert float(bad["iou"]) == pytest.approx(0.5)
    # Overlap is counted where there is something to overlap with only.
    assert float(bad["dice"]) == pytest.approx(float(good["dice"]), abs=1e-6)
    assert float(bad["reached"]) == 1


def test_the_iou_to_predict_is_that_of_the_drawn_mask(batch: Batch) -> None:
    wanted = squares((0, 4, 0, 6), (0, 2, 0, 2))
    drawn = squares((2, 6, 0, 6), (4, 6, 4, 6))  # 12 of 24 + 24 - 12 cells; none of 8.
    one = of_masks(batch, wanted, [True, True])
    told = torch.tensor([[12 / 36 + 0.3, 0.4]])
    found = train.mask_losses(logits_of(drawn, 12), told, one)
    assert float(found["reached"]) == pytest.approx((12 / 36 + 0) / 2)
    assert float(found["iou"]) == pytest.approx((0.3**2 + 0.4**2) / 2)
    assert float(found["dice"]) == pytest.approx(((1 - 25 / 49) + (1 - 1 / 9)) / 2, abs=1e-4)


def both_stages(trainee: NanoTrainee, batch: Batch) -> Iterable[train.Terms]:
    prefix = torch.tensor(answers().prefix)
    yield train.stage_one(trainee, batch)
    for borrowed in (False, True):
        every = torch.full(batch.shown.shape, borrowed)
        yield train.stage_two(trainee, batch, prefix, every, 0.5)


def used(trainee: NanoTrainee, terms: train.Terms) -> set[str]:
    """Parameters that get a gradient."""
    trainee.zero_grad()
    sum(terms.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    return {name for name, p in trainee.named_parameters() if p.grad is not None}


def test_which_parameters_are_trained_depends_on_no_batch(
    trainee: NanoTrainee, batch: Batch
) -> None:
    # Processes add up gradients by place, so these must be of the same parameters in all.
    nothing = torch.zeros_like(batch.shown)
    colorless = torch.full_like(batch.colors, NO_COLOR)
    plain = replace(
        batch,
        shown=nothing,
        masks=torch.zeros_like(batch.masks),
        colors=colorless,
        seen_colors=colorless,
    )
    assert bool((batch.seen_colors != NO_COLOR).any())
    first, language, borrowed = (used(trainee, t) for t in both_stages(trainee, batch))
    assert language == borrowed > first
    assert [used(trainee, t) for t in both_stages(trainee, plain)] == [first, language, language]
    assert "color_prototypes" in language and "network.seg_head.0.weight" in language


def test_borrowed_prompts_are_those_of_labels(trainee: NanoTrainee, batch: Batch) -> None:
    with torch.no_grad():
        first, language, borrowed = both_stages(trainee, batch)
    for name in ("bce", "dice", "iou", "dense", "paint"):
        assert float(borrowed[name]) == pytest.approx(float(first[name]), abs=1e-5)
    assert float(language["bce"]) != float(first["bce"])
    assert float(language["language"]) == pytest.approx(float(borrowed["language"]), abs=1e-6)


def test_beside_a_mean_image_only_names_are_learnt(trainee: NanoTrainee, batch: Batch) -> None:
    prefix = torch.tensor(answers().prefix)
    with torch.no_grad():
        terms = train.stage_three(trainee, batch, prefix)
        # What the second picture shows, its masks and what is in view, is not asked.
        changes = {"sam": -batch.sam[1], "masks": 1 - batch.masks[1], "in_view": 0}
        other = replace(batch, **{name: getattr(batch, name).clone() for name in changes})
        for name, value in changes.items():
            getattr(other, name)[1] = value
        again = train.stage_three(trainee, other, prefix)
        assert {name: float(term) for name, term in again.items()} == {
            name: float(term) for name, term in terms.items()
        }
        # Nor is its answer's end, but its name is: the answers' tokens are exchanged.
        for in_name in (False, True):
            changed = batch.targets.clone()
            for start in batch.ask_at[1]:
                changed[1, start - 2 if in_name else start] = 7
            found = train.stage_three(trainee, replace(batch, targets=changed), prefix)
            assert (float(found["language"]) != float(terms["language"])) is in_name
    assert set(terms) == {
        *("bce", "dice", "iou", "reached", "language", "decided", "named", "in_view", "tokens")
    }


def test_the_last_stage_trains_the_same_parameters_whatever_the_batch(
    trainee: NanoTrainee, batch: Batch, tmp_path: Path
) -> None:
    data = nano_data(tmp_path / "shard")
    strangers = data.batch(np.random.default_rng(0), 2, 3, Asking({"stranger": 1.0}))
    alone = data.batch(np.random.default_rng(1), 1, 3, Asking(KINDS))
    prefix = torch.tensor(answers().prefix)
    trained = [
        used(trainee, train.stage_three(trainee, each, prefix))
        for each in (batch, strangers, alone)
    ]
    assert trained[0] == trained[1] == trained[2]
    assert not any("vision_tower" in name or "image_encoder" in name for name in trained[0])


@dataclass(frozen=True)
class Trained:
    """A folder in which training took place, and the steps that were told."""

    folder: Path
    steps: list[int]

    @property
    def weights(self) -> bytes:
        return (self.folder / "trainee.pt").read_bytes()

    @property
    def noted(self) -> list[dict[str, float]]:
        lines = (self.folder / "log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


class Stopped(Exception):
    """What a test stops training with."""


CFG = NanoTrainConfig(tower_steps=1, joint_steps=2, wording_steps=2, batch=2, queries=2, lr=0.05)


def go(folder: Path, inputs: Path, stop_at: int = 0, copy_at: Sequence[int] = ()) -> Trained:
    """Train until done, or until a step is told; at others, copy the folder as it stands."""
    folder.mkdir(exist_ok=True)
    steps: list[int] = []

    def told(done: int, total: int) -> None:
        assert total == 5
        steps.append(done)
        if done in copy_at:
            shutil.copytree(folder, folder.with_name(f"at step {done}"))
        if done == stop_at:
            raise Stopped

    train.run(folder, [inputs / "shard"], inputs / "tokenizer", CFG, told)
    return Trained(folder, steps)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_shard(folder / "shard")
    write_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _small_network_and_every_step_kept() -> Iterator[None]:
    """Training is of a small network, in the other process too, which finds its imports done.

    That process keeps no steps, and need not: the first one writes the files.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "_CHECKPOINT_STEPS", 1)
        patched.setattr(train, "_LOG_STEPS", 1)
        patched.setattr(train, "_work", small_work)
        patched.setattr("torch.multiprocessing.get_context", lambda _: forkserver())
        yield


@pytest.fixture(scope="module")
def straight(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training in one process; beside it, to read, its folder as it stood at three steps."""
    with patch.object(train, "PROCESSES", 1):
        return go(tmp_path_factory.mktemp("one") / "straight", inputs, copy_at=(2, 4, 5))


def test_a_stopped_training_goes_on_to_the_same_bits(
    trainee: NanoTrainee,
    straight: Trained,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "PROCESSES", 1)
    assert straight.steps == [1, 2, 3, 4, 5]
    for step in (2, 4, 5):  # What is kept then: the step before, between stages or in the last.
        folder = tmp_path / f"stopped {step}"
        if step == 4:
            with pytest.raises(Stopped):
                go(folder, inputs, stop_at=step)
        else:  # As if the machine had gone down.
            shutil.copytree(straight.folder.with_name(f"at step {step}"), folder)
        assert not (folder / "trainee.pt").exists()
        resumed = go(folder, inputs)
        assert resumed.steps == list(range(step, 6))
        assert resumed.weights == straight.weights
        assert [line["step"] for line in resumed.noted] == [1, 2, 3, 4, 5]
    start = trainee.network.state_dict()
    found = torch.load(straight.folder / "trainee.pt", weights_only=True)
    assert any(not torch.equal(found[f"network.{name}"], p) for name, p in start.items())
    assert {path.name for path in straight.folder.iterdir()} == {"trainee.pt", "log.jsonl"}


def test_two_processes_give_the_same_bits_whether_stopped_or_not(
    inputs: Path, tmp_path: Path
) -> None:
    straight = go(tmp_path / "straight", inputs, copy_at=(4,))
    assert (tmp_path / "at step 4" / "checkpoint.pt").exists()
    resumed = go(tmp_path / "at step 4", inputs)  # As if the machine had gone down at step 4.
    assert straight.steps == [1, 2, 3, 4, 5] and resumed.steps == [4, 5]
    assert resumed.weights == straight.weights
    assert {path.name for path in resumed.folder.iterdir()} == {"trainee.pt", "log.jsonl"}


def test_the_last_stage_leaves_vision_as_it_is(straight: Trained) -> None:
    kept = straight.folder.with_name("at step 4")  # That is step 3, between stages.
    before = torch.load(kept / "checkpoint.pt", weights_only=True)["trainee"]
    after = torch.load(straight.folder / "trainee.pt", weights_only=True)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    seeing = tuple(f"network.{part}" for part in ("vision_tower", "image_encoder", "mask_decoder"))
    assert not any(name.startswith((*seeing, "dense", "paint")) for name in changed)
    for part in ("language_model.model.layers.0.", "seg_head.0.", "projector.0."):
        assert any(name.startswith(f"network.{part}") for name in changed), part
