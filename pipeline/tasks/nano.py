"""Luigi tasks that make LISA-nano from generated rooms: ``TrainNanoTeacher``.

Workers render the images shard by shard; training and evaluation follow. Finished artifacts are
reused for the same config, and an interrupted training continues from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import luigi

from data.artifacts.store import ArtifactKey, writing
from pipeline.config import config_layer, load_layers, parse_overrides
from pipeline.plan import output_root
from pipeline.process import progress
from pipeline.steps import Step, declare
from pipeline.tasks.base import ArtifactTask
from stages.nano.configs import NanoConfig
from stages.teacher.identity import identity_of, place_of

_FOLDER = "lisa_nano"
PICTURES = declare(Step("nano_pictures", 1, "Pictures that LISA-nano learns from."))
TRAINING = declare(Step("nano_training", 1, "LISA-nano, trained on all pictures.", resumable=True))
TEACHER = declare(
    Step("nano_teacher", 1, "LISA-nano as it ships, with its metrics.", task="TrainNanoTeacher")
)


@lru_cache(maxsize=8)
def _load(config: str, overrides: str) -> NanoConfig:
    layers = [config_layer(config)] if config else []
    layers.append(("--overrides", parse_overrides(overrides)))
    return load_layers(NanoConfig, layers)


class NanoTask(ArtifactTask):
    """Base class of the tasks that make LISA-nano."""

    @property
    def cfg(self) -> NanoConfig:
        """The config from this task's parameters."""
        return _load(self.config, self.overrides)

    def check(self) -> None:
        """Refuse a wrong config."""
        _ = self.cfg

    def nano_key(
        self, step: Step, config: Mapping[str, Any], inputs: Mapping[str, str], unit: str = ""
    ) -> ArtifactKey:
        """Key of an artifact of one of these steps."""
        root = output_root() / _FOLDER
        return ArtifactKey.make(root, step.name, step.version, config, inputs, unit or None)

    def nano_task(self, task: type[NanoTask], **parameters: Any) -> NanoTask:
        """Another of these tasks under the same config."""
        return task(config=self.config, overrides=self.overrides, **parameters)


class NanoPictures(NanoTask):
    """One shard of training images; all shards when none is named."""

    shard = luigi.OptionalIntParameter(
        default=None, description="number of one shard; default: all"
    )

    def unit(self) -> str | None:
        """The shard number with four digits, a folder's name."""
        return None if self.shard is None else f"{self.shard:04d}"

    def key(self) -> ArtifactKey | None:
        """Key of the shard's images; the number of shards is not part of it."""
        if self.shard is None:
            return None
        config = self.cfg.pictures.model_dump(exclude={"shards"})
        return self.nano_key(PICTURES, config, {"shard": str(self.shard)}, self.unit() or "")

    def requires(self) -> list[NanoTask]:
        """All shards, for a task without a shard."""
        if self.shard is not None:
            return []
        return [self.nano_task(NanoPictures, shard=i) for i in range(self.cfg.pictures.shards)]

    def make(self, key: ArtifactKey) -> None:
        """Render the images of the shard's rooms."""
        from stages.nano import prepare

        shard = self.shard
        with writing(key) as folder:
            if folder is not None and shard is not None:
                show = progress.reporter(f"NanoPictures {shard}")
                prepare.run_shard(folder, shard, self.cfg.pictures, show)


class NanoTraining(NanoTask):
    """Tokenizer and network, trained on all shards."""

    def requires(self) -> list[NanoTask]:
        """All shards of images."""
        return [self.nano_task(NanoPictures, shard=i) for i in range(self.cfg.pictures.shards)]

    def key(self) -> ArtifactKey:
        """Key of the trained network."""
        inputs = {}
        for task in self.requires():
            shard = task.key()
            assert shard is not None
            inputs[f"pictures {task.unit()}"] = shard.fingerprint
        if self.cfg.train.start:
            inputs["start"] = identity_of(self._start())
        config = self.cfg.train.model_dump(exclude={"start"})
        return self.nano_key(TRAINING, config, inputs)

    def make(self, key: ArtifactKey) -> None:
        """Learn the tokenizer, then train the network."""
        from stages.nano import prepare, train

        keys = [task.key() for task in self.requires()]
        shards = [shard.folder for shard in keys if shard is not None]
        with writing(key, TRAINING.resumable) as folder:
            if folder is not None:
                cfg = self.cfg.train
                if cfg.start:
                    cfg = cfg.model_copy(update={"start": str(self._start())})
                prepare.run(folder / "tokenizer", cfg.start)
                show = progress.reporter("NanoTraining", alone=True)
                train.run(folder, shards, folder / "tokenizer", cfg, show)

    def _start(self) -> Path | str:
        """Folder of the weights to go on from; DataError where there are none."""
        return place_of(self.cfg.train.start, "train.start")


class TrainNanoTeacher(NanoTask):
    """LISA-nano as it is published: checkpoint folder, metrics and model card."""

    def requires(self) -> NanoTask:
        """The trained network."""
        return self.nano_task(NanoTraining)

    def key(self) -> ArtifactKey:
        """Key of the checkpoint folder."""
        training = self.requires().key()
        assert training is not None
        exam = self.cfg.exam.model_dump()
        return self.nano_key(TEACHER, exam, {"training": training.fingerprint})

    def make(self, key: ArtifactKey) -> None:
        """Export the network, evaluate it and write the model card."""
        from stages.nano import finish

        training = self.requires().key()
        assert training is not None
        parameters = {"config": self.config, "overrides": self.overrides}
        options = "".join(f" --{name} {value}" for name, value in parameters.items() if value)
        command = f"luigi --module pipeline TrainNanoTeacher{options}"
        with writing(key) as folder:
            if folder is not None:
                show = progress.reporter("TrainNanoTeacher", alone=True)
                finish.run(folder, training.folder, self.cfg, command, show)
