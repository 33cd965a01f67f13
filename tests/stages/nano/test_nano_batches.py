"""What LISA-nano is fed: pictures as they will be served, truths as their pixels tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from data.rooms.snapshots import KnownObject, write_snapshots
from data.rooms.teacher_questions import (
    QUERY_LABELS,
    VISIBLE_SHARE,
    PictureObjects,
    ViewQuery,
    sample_view_query,
)
from data.types import Array
from models.lisa.images import ClipTransform, sam_pixels
from models.lisa.trainee import CLIP_SIZE, SAM_SIZE, nano_config
from stages.nano import batches
from stages.nano.batches import COLOR_IDS, LABEL_IDS, NO_COLOR, UNKNOWN, Batch, NanoData
from tests.support.worlds.nano_world import answers, nano_data, office

CELL = 4
PICTURES, QUERIES = 8, 5


class Unaltered:
    """A generator in whose hands pictures keep their colours."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Array:
        return np.full(shape, (low + high) / 2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch and what it was made of: object ids and questions, in order."""

    batch: Batch
    ids: list[Array]
    asked: list[list[ViewQuery]]

    def image(self, row: int) -> tuple[Array, bool]:
        """The picture whose object ids these are, and whether it is mirrored."""
        pictures = office()
        for image, ids in zip(pictures.images, pictures.object_ids):
            if np.array_equal(ids, self.ids[row]):
                return image, False
            if np.array_equal(ids[:, ::-1], self.ids[row]):
                return image[:, ::-1], True
        raise AssertionError("object ids of no picture")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NanoData:
    return nano_data(tmp_path_factory.mktemp("nano") / "shard")


@pytest.fixture(scope="module")
def drawn(data: NanoData) -> Drawn:
    """A batch without changes of colour, its questions overheard."""
    ids_seen: list[Array] = []
    asked: list[list[ViewQuery]] = []

    def viewer(
        ids: Array, known: Sequence[KnownObject], weights: Mapping[str, float]
    ) -> PictureObjects:
        ids_seen.append(ids)
        asked.append([])
        return PictureObjects(ids, known, weights)

    def overheard(
        viewer: PictureObjects, rng: np.random.Generator, kinds: Mapping[str, float]
    ) -> ViewQuery:
        asked[-1].append(sample_view_query(viewer, rng, kinds))
        return asked[-1][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "PictureObjects", viewer)
        patch.setattr(batches, "sample_view_query", overheard)
        batch = data.batch(cast(np.random.Generator, Unaltered(4)), PICTURES, QUERIES)
    return Drawn(batch, ids_seen, asked)


def known() -> tuple[KnownObject, ...]:
    (room,) = office().rooms
    return room


def test_the_same_generator_gives_the_same_bits(data: NanoData) -> None:
    first, again, other = (data.batch(np.random.default_rng(s), 3, 2) for s in (1, 1, 2))
    for field in fields(Batch):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert not torch.equal(first.sam, other.sam)


def test_sam_sees_in_training_what_it_sees_when_served(drawn: Drawn) -> None:
    mirrored = set()
    for row in range(PICTURES):
        image, flipped = drawn.image(row)
        mirrored.add(flipped)
        served, _ = sam_pixels(np.ascontiguousarray(image), SAM_SIZE)
        torch.testing.assert_close(drawn.batch.sam[row], served, rtol=0, atol=1e-5)
    # Pictures and their truths are mirrored together: both ways were drawn.
    assert mirrored == {False, True}


def test_clip_sees_nearly_what_it_sees_when_served(drawn: Drawn) -> None:
    serve = ClipTransform((CLIP_SIZE, CLIP_SIZE), crop=None, resample=2)
    for row in range(PICTURES):
        served = serve(np.ascontiguousarray(drawn.image(row)[0]))
        far = (drawn.batch.clip[row] - served).abs()
        # PIL smooths a little where it makes smaller, and rounds to 8 bits.
        assert far.mean() < 0.02 and far.quantile(0.99) < 0.15


def test_masks_are_the_answers_pooled_to_cells(drawn: Drawn) -> None:
    height, width = drawn.ids[0].shape[0] // CELL, drawn.ids[0].shape[1] // CELL
    assert drawn.batch.masks.shape == (PICTURES, QUERIES, height, width)
    for row, ids in enumerate(drawn.ids):
        for k, query in enumerate(drawn.asked[row]):
            inside = torch.from_numpy(np.isin(ids, query.targets).astype(np.float32))
            pooled = torch.nn.functional.avg_pool2d(inside[None], CELL)[0]
            assert torch.equal(drawn.batch.masks[row, k], pooled)
            assert bool(drawn.batch.shown[row, k]) == bool(query.targets) == bool(pooled.any())


def test_questions_are_numbered_as_asked(drawn: Drawn) -> None:
    several = 0
    for row, asked in enumerate(drawn.asked):
        for k, query in enumerate(asked):
            label = int(drawn.batch.labels[row, k])
            assert (QUERY_LABELS[label] if label != UNKNOWN else "") == query.label
            color = int(drawn.batch.colors[row, k])
            assert color == (COLOR_IDS[query.color] if query.color else NO_COLOR)
            own = {known()[target].color for target in query.targets}
            clear = len(own) == 1 and own <= set(COLOR_IDS)
            if query.kind in ("both", "everything") or not clear:
                assert drawn.batch.seen_colors[row, k] == NO_COLOR
            else:
                assert drawn.batch.seen_colors[row, k] == COLOR_IDS[own.pop()]
                several += 1
    assert several > 3


def test_cells_and_patches_are_labels_of_their_pixels(drawn: Drawn) -> None:
    patches = drawn.batch.patches.numpy()
    clip = nano_config(9).clip.to_dict()
    assert patches.shape[1] == (clip["image_size"] // clip["patch_size"]) ** 2
    assert np.abs(patches.sum(axis=-1) - 1).max() < 1e-6 and patches.min() >= 0
    names = [0, *(LABEL_IDS[item.label] + 1 for item in known())]
    for row, ids in enumerate(drawn.ids):
        labels = np.array(names)[np.where(ids == 255, 0, ids.astype(int) + 1)]
        height, width = labels.shape
        blocks = labels.reshape(height // CELL, CELL, width // CELL, CELL).transpose(0, 2, 1, 3)
        flat = blocks.reshape(height // CELL, width // CELL, -1)
        cells = drawn.batch.cells[row].numpy()
        assert (flat == cells[..., None]).any(axis=-1).all()
        # Shares over the whole picture: patches tile it, so their mean is its histogram.
        share = np.bincount(labels.ravel(), minlength=len(QUERY_LABELS) + 1) / labels.size
        assert np.abs(patches[row].mean(axis=0) - share).max() < 0.01
        # And patch by patch, where a patch is a whole number of rows: 14 patches of 160 rows.
        side = round(patches.shape[1] ** 0.5)
        for patch in (0, 5, side * side // 2 + side // 2, side * side - 1):
            top, left = (patch // side) * height / side, (patch % side) * width / side
            inner = labels[
                round(top) : round(top + height / side), round(left) : round(left + width / side)
            ]
            exact = np.bincount(inner.ravel(), minlength=len(QUERY_LABELS) + 1) / inner.size
            assert np.abs(patches[row, patch] - exact).max() < 0.2


def test_in_view_is_what_enough_pixels_show(drawn: Drawn) -> None:
    told = set()
    for row, ids in enumerate(drawn.ids):
        for label, place in LABEL_IDS.items():
            own = [index for index, item in enumerate(known()) if item.label == label]
            count = int(np.isin(ids, own).sum())
            expected = 0 if count == 0 else UNKNOWN
            if count >= VISIBLE_SHARE * ids.size:
                expected = 1
            assert int(drawn.batch.in_view[row, place]) == expected
            told.add(expected)
    assert {0, 1} <= told


def test_paint_is_the_mean_colour_of_cells(drawn: Drawn) -> None:
    image, _ = drawn.image(0)
    height, width = image.shape[0] // CELL, image.shape[1] // CELL
    mean = image.reshape(height, CELL, width, CELL, 3).mean(axis=(1, 3)) / 255
    painted = drawn.batch.paint[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(painted, mean, rtol=0, atol=1e-5)


def test_colours_change_but_stay_colours(data: NanoData, drawn: Drawn) -> None:
    changed = data.batch(np.random.default_rng(4), PICTURES, QUERIES)
    assert 0 <= float(changed.paint.min()) and float(changed.paint.max()) <= 1
    assert not torch.equal(changed.paint, drawn.batch.paint)


def test_pictures_of_all_shards_are_drawn_with_their_own_objects(tmp_path: Path) -> None:
    whole = office()
    folders = []
    for number, rows in enumerate(([0], [1, 2], [3])):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        part = type(whole)(
            whole.images[rows], whole.object_ids[rows], whole.room_of[rows], (known()[:-number],)
            if number else (known(),)
        )  # fmt: skip
        write_snapshots(folders[-1], part)
    data = NanoData(folders, answers())
    assert len(data) == len(whole)
    for row, shard in enumerate((0, 1, 1, 2)):
        image, ids, objects = data.picture(row)
        assert np.array_equal(image, whole.images[row])
        assert np.array_equal(ids, whole.object_ids[row])
        assert len(objects) == len(known()) - shard
