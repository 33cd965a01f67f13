"""Load training scenes and yield the samples of each epoch for ``train_student``.

Scenes without a labelled query are skipped; the others are kept in memory within a fixed budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from data.errors import UserError
from data.types import Array
from stages.configs import StudentConfig
from stages.student import training_samples
from stages.student.training_samples import (
    Augmentation,
    CompactScene,
    Sample,
    SampleSettings,
    TrainingScene,
)

KEEP_BYTES = 1 << 30


class Voxels(NamedTuple):
    """Voxels of a batch: ``features`` (M, 7) and ``indices`` (M, 4), sample number and x, y, z.

    ``books`` are the rulebooks of the sparse convolutions, empty for a GPU.
    """

    features: Array
    indices: Array
    books: Mapping[str, Any]


class Share:
    """One process's part of a batch.

    ``samples`` are of its scenes, ``voxels`` their voxels if already prepared. Losses are divided
    by ``divisor``, the mean number of scenes per process, so that their mean over processes is the
    mean over the batch. ``counts`` is False if the batch has no scene for the process: it then
    computes another process's scene, so that all take the same steps, and its losses are
    multiplied by 0. The class is no dataclass because Fabric converts dataclasses.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        divisor: float,
        counts: bool,
        voxels: Voxels | None = None,
    ) -> None:
        self.samples, self.divisor, self.counts = samples, divisor, counts
        self.voxels = voxels


class SampleLoader:
    """Draws samples from the scenes with a labelled query; keeps scenes in memory that fit.

    Process ``rank`` of ``processes`` gets every ``processes``-th scene of a batch.
    """

    def __init__(
        self,
        scenes: Sequence[TrainingScene],
        cfg: StudentConfig,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Read every scene once.

        Raises UserError without scenes, without a labelled query, for tokens of different lengths
        and for image features that are missing or of different lengths.
        """
        self._scenes, self._cfg = scenes, cfg
        self._rank, self._processes = rank, processes
        self._kept: dict[int, CompactScene] = {}
        self._foreign: dict[int, Array] = {}  # Rows of the token bank usable as negatives.
        self._refiner: Callable[[CompactScene], CompactScene] | None = None
        self._room = KEEP_BYTES // processes
        self._settings = SampleSettings(
            cfg.voxel_size,
            cfg.queries_per_scene,
            cfg.negatives_per_scene,
            Augmentation(**cfg.augment.model_dump()),
        )
        if len(scenes) == 0:
            raise UserError("The training split has no scene. Name some in the split's file.")
        tokens = {}
        image_dims = set()
        self.scene_ids: list[str] = []
        for index in range(len(scenes)):
            scene = self.scene(index)
            self.scene_ids.append(scene.scene_id)
            if len(scene.tokens):
                tokens[index] = scene.tokens
                image_dims.add(0 if scene.image is None else scene.image.shape[1])
        self.usable = tuple(tokens)
        if not tokens:
            raise UserError(
                f"None of the {len(scenes)} training scenes has a query with a token and a label. "
                "See why views were dropped in the artifacts of FuseMasks."
            )
        lengths = {array.shape[1] for array in tokens.values()}
        if len(lengths) > 1:
            raise UserError(f"The scenes' tokens have different lengths: {sorted(lengths)}.")
        self.token_dim = lengths.pop()
        if cfg.loss.image > 0 and (0 in image_dims or len(image_dims) > 1):
            raise UserError(
                "student.loss.image needs image features of all training scenes, of one length; "
                f"found {sorted(image_dims)} (0 for none). Run LiftFeatures."
            )
        self.image_dim = image_dims.pop() if cfg.loss.image > 0 else 0
        self._bank = training_samples.token_bank(tokens.values(), cfg.seed)

    def scene(self, index: int) -> CompactScene:
        """Return a scene; it stays in memory if it fits into this process's ``KEEP_BYTES``."""
        if index in self._kept:
            return self._kept[index]
        scene = training_samples.compact(self._scenes[index])
        if self._refiner is not None:
            scene = self._refiner(scene)
        if scene.num_bytes <= self._room:
            self._room -= scene.num_bytes
            self._kept[index] = scene
        return scene

    def refine(self, refiner: Callable[[CompactScene], CompactScene]) -> None:
        """Apply ``refiner`` to all scenes from now on."""
        self._refiner, self._room = refiner, KEEP_BYTES // self._processes
        self._kept.clear()
        self._foreign.clear()

    def epoch(
        self, epoch: int, prepare: Callable[[Sequence[Sample]], Voxels] | None = None
    ) -> Iterator[Share]:
        """Yield this process's shares of an epoch's batches, with the voxels of ``prepare``.

        A thread prepares the next share while the caller uses one.
        """
        seed, size = self._cfg.seed, self._cfg.batch_scenes
        order = [
            self.usable[i] for i in training_samples.scene_order(seed, epoch, len(self.usable))
        ]
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = pool.submit(self._batch, chunks[0], epoch, prepare)
            for chunk in chunks[1:]:
                batch, coming = coming.result(), pool.submit(self._batch, chunk, epoch, prepare)
                yield batch
            yield coming.result()

    def _batch(
        self,
        indices: Sequence[int],
        epoch: int,
        prepare: Callable[[Sequence[Sample]], Voxels] | None,
    ) -> Share:
        own = indices[self._rank :: self._processes]
        samples = [self._sample(index, epoch) for index in own or indices[:1]]
        voxels = None if prepare is None else prepare(samples)
        return Share(samples, len(indices) / self._processes, bool(own), voxels)

    def _sample(self, index: int, epoch: int) -> Sample:
        scene = self.scene(index)
        if index not in self._foreign:
            self._foreign[index] = training_samples.foreign_rows(
                self._bank, scene.tokens, self._cfg.negative_cosine
            )
        foreign = self._bank[self._foreign[index]]
        rng = training_samples.sample_generator(self._cfg.seed, epoch, index)
        return training_samples.draw_sample(scene, foreign, self._settings, rng)
