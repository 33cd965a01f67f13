"""Feeds ``train_student``: which scenes and queries are of use, and samples of them by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from data import batches
from data.batches import Augmentation, CompactScene, Sample, SampleSettings, TrainingScene
from data.errors import UserError
from stages.configs import StudentConfig

KEEP_BYTES = 1 << 30


class SampleLoader:
    """Samples of the scenes that have a labelled query; keeps as many scenes as fit."""

    def __init__(self, scenes: Sequence[TrainingScene], cfg: StudentConfig) -> None:
        """Read every scene once; UserError when there is nothing to learn from."""
        self._scenes, self._cfg = scenes, cfg
        self._kept: dict[int, CompactScene] = {}
        self._room = KEEP_BYTES
        self._settings = SampleSettings(
            cfg.voxel_size,
            cfg.queries_per_scene,
            cfg.negatives_per_scene,
            Augmentation(**cfg.augment.model_dump()),
        )
        if len(scenes) == 0:
            raise UserError("The training split has no scene. Name some in the split's file.")
        tokens = {}
        self.scene_ids: list[str] = []
        for index in range(len(scenes)):
            scene = self.scene(index)
            self.scene_ids.append(scene.scene_id)
            if len(scene.tokens):
                tokens[index] = scene.tokens
        self.usable = tuple(tokens)
        if not tokens:
            raise UserError(
                f"None of the {len(scenes)} training scenes has a query with a token and a point "
                f"of confidence {cfg.loss.confident} (student.loss.confident) or more. See why "
                "views were dropped in the artifacts of FuseMasks, or lower that value."
            )
        lengths = {array.shape[1] for array in tokens.values()}
        if len(lengths) > 1:
            raise UserError(f"The scenes' tokens have different lengths: {sorted(lengths)}.")
        self.token_dim = lengths.pop()
        self._bank = batches.token_bank(tokens.values(), cfg.seed)

    def scene(self, index: int) -> CompactScene:
        """One scene, kept in memory where ``KEEP_BYTES`` still has room for it."""
        if index in self._kept:
            return self._kept[index]
        scene = batches.compact(self._scenes[index], self._cfg.loss.confident)
        if scene.num_bytes <= self._room:
            self._room -= scene.num_bytes
            self._kept[index] = scene
        return scene

    def epoch(self, epoch: int) -> Iterator[list[Sample]]:
        """Yield the batches of one epoch; a thread prepares the next while one is in use."""
        seed, size = self._cfg.seed, self._cfg.batch_scenes
        order = [self.usable[i] for i in batches.scene_order(seed, epoch, len(self.usable))]
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = pool.submit(self._batch, chunks[0], epoch)
            for chunk in chunks[1:]:
                batch, coming = coming.result(), pool.submit(self._batch, chunk, epoch)
                yield batch
            yield coming.result()

    def _batch(self, indices: Sequence[int], epoch: int) -> list[Sample]:
        return [self._sample(index, epoch) for index in indices]

    def _sample(self, index: int, epoch: int) -> Sample:
        scene = self.scene(index)
        foreign = batches.foreign_tokens(self._bank, scene.tokens, self._cfg.negative_cosine)
        rng = batches.sample_generator(self._cfg.seed, epoch, index)
        return batches.draw_sample(scene, foreign, self._settings, rng)
