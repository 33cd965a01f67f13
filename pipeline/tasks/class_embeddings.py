"""Class embeddings as a Luigi task: ``EmbedClasses --classes scannetpp_top100 --clip ViT-B/16``."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path

import luigi

from data.artifacts.store import ArtifactKey, sha256_of, writing
from data.errors import ConfigError
from data.queries import classes as class_sets
from data.queries.classes import FILE_NAMES, HUB_IDS, TEMPLATES, check_clip
from pipeline.plan import output_root
from pipeline.process import gpus, process
from pipeline.steps import Part, Step, declare
from pipeline.tasks.base import ArtifactTask
from stages.teacher.identity import identity_of, place_of

EMBED_CLASSES = declare(
    Step(
        "embed_classes",
        1,
        "CLIP text embeddings of a set of classes.",
        parts={"classes": Part("data.artifacts.embeddings:read_class_embeddings")},
    )
)
DATA_VARIABLE = "MLLM3D_DATA"
_LOG = logging.getLogger("luigi-interface.classes")


class EmbedClasses(ArtifactTask):
    """CLIP text embeddings of a set of classes, also as the tensor that other scripts load."""

    classes = luigi.Parameter(
        description=f"{', '.join(class_sets.NAMES)}, or a text file of one class a line"
    )
    clip = luigi.ChoiceParameter(
        choices=list(HUB_IDS), default="ViT-B/16", description="which CLIP model"
    )
    weights = luigi.Parameter(default="", description="folder of its weights; empty: from the hub")
    templates = luigi.ChoiceParameter(
        choices=list(TEMPLATES), default="indoor", description="sentences around a class's name"
    )
    data_root = luigi.Parameter(
        default="", description=f"folder of the data set that has the list; else ${DATA_VARIABLE}"
    )
    device = luigi.ChoiceParameter(
        choices=["auto", "cpu", "cuda"], default="auto", significant=False, description="where"
    )

    def check(self) -> None:
        """Refuse an unknown set, a missing list and missing weights before any work."""
        if self.config or self.overrides:
            raise ConfigError("EmbedClasses takes no --config and no --overrides")
        self.key()

    @cached_property
    def root(self) -> Path | None:
        """The data set's folder; None where the list needs none."""
        dataset = class_sets.dataset_of(self.classes)
        if self.data_root and not dataset:
            raise ConfigError(f"--data-root: the list {self.classes} lies in no data set")
        if not dataset or self.data_root:
            given = os.path.expandvars(os.path.expanduser(self.data_root))
            return Path(given) if given else None
        above = os.environ.get(DATA_VARIABLE)
        if not above:
            raise ConfigError(
                f"--classes {self.classes}: its list lies in the data set. Name that folder with "
                f"--data-root, or export {DATA_VARIABLE}, the folder that holds {dataset}/"
            )
        return Path(above) / dataset

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes in their order."""
        return class_sets.class_names(self.classes, self.root)

    def key(self) -> ArtifactKey:
        """The embeddings, known by the classes' names and the weights' content."""
        place = place_of(self.weights or HUB_IDS[self.clip], "--weights")
        if isinstance(place, Path):
            check_clip(place, self.clip)
        config = {
            "classes": list(self.names),
            "templates": list(TEMPLATES[self.templates]),
            "clip": self.clip,
            "file": self.tensor_name(),
        }
        inputs = {"weights": identity_of(place)}
        step = (EMBED_CLASSES.name, EMBED_CLASSES.version)
        return ArtifactKey.make(output_root() / "text", *step, config, inputs)

    def tensor_name(self) -> str:
        """Name of the plain tensor's file, as the original scripts have it."""
        name = self.classes if self.classes in class_sets.NAMES else Path(self.classes).stem
        return f"{name}_{FILE_NAMES[self.clip]}_clip_text.pth"

    def num_gpus(self) -> int:
        """One."""
        return gpus.wanted(self.device)

    def make(self, key: ArtifactKey) -> None:
        """Embed and write; UserError when the weights cannot be read."""
        from data.artifacts.embeddings import write_class_embeddings
        from stages.queries import embed_classes as stage

        place = place_of(self.weights or HUB_IDS[self.clip], "--weights")
        device = process.resolved(self.device)
        with writing(key) as folder:
            if folder is not None:
                made = stage.run(self.names, self.templates, self.clip, place, device)
                write_class_embeddings(folder, made, self.tensor_name())
                path = folder / self.tensor_name()
                told = (len(made.classes), path, sha256_of(path)[:12])
                _LOG.info("EmbedClasses: %d classes in %s (SHA-256 %s...)", *told)
