"""The stages of one synthetic scene, from scan to metrics, with the cost of each stage.

The two networks are not run: the teacher's masks are synthetic (``answers.py``), and the student's
answers are the lifted labels. ``growth.py`` times both networks separately.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.answers import answers, blob_logits
from benchmarks.harness import require
from benchmarks.rooms import room_scene
from data.artifacts.evaluation import SOURCES
from data.artifacts.links import read_links, write_links
from data.artifacts.scene import read_scene, write_scene
from data.artifacts.soft_masks import PseudoLabels, read_pseudo, write_pseudo
from data.artifacts.store import ArtifactKey, writing
from data.artifacts.teacher import FILE, TeacherCache, TeacherWriter
from data.types import GroundTruth, Prompt, PromptTruth, Scan, Scene
from stages.configs import FuseConfig, LinkConfig, PrepareConfig
from stages.evaluation import evaluate
from stages.evaluation.evaluate import EvaluationScene
from stages.fusion import fuse_masks
from stages.scene import link_points, prepare_scene
from stages.student import training_samples
from stages.student.training_samples import (
    Augmentation,
    SampleSettings,
    TrainingScene,
    draw_sample,
    sample_generator,
)

EMBEDDING = 256
"""Length of LISA's [SEG] embeddings."""
_SLABS = 20
_SAMPLE = SampleSettings(0.05, 8, 8, Augmentation())


@dataclass(frozen=True)
class Size:
    """The size of a scene: image sizes in pixels, masks (height, width) in cells."""

    points: int
    views: int
    queries: int
    height: int = 584
    width: int = 876
    mask: tuple[int, int] = (171, 256)


@dataclass
class Costs:
    """Seconds and bytes written, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Record the cost of the block."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start

    @contextmanager
    def artifact(self, stage: str, root: Path) -> Iterator[Path]:
        """Yield the folder of an artifact for the block to fill; record the cost to finish it."""
        key = ArtifactKey.make(root, stage, 1, {}, {})
        with self.of(stage), writing(key) as folder:
            if folder is None:
                raise ValueError(f"{root} is not empty")
            yield folder
        files = (path for path in folder.rglob("*") if path.is_file())
        self.written[stage] = sum(path.stat().st_size for path in files)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of the stages, whose making is not timed: a scan and the teacher's answers."""

    scan: Scan
    logits: list[np.ndarray]
    size: Size


def make_inputs(size: Size) -> Inputs:
    """Make a room of a given size with slabs of it as objects."""
    scene = room_scene(size.points, size.views, size.height, size.width)
    cloud, count = scene.cloud, len(scene.cloud)
    slab = np.minimum(cloud.points[:, 0] / 6 * _SLABS, _SLABS - 1).astype(int).clip(0)
    order = np.argsort(slab, kind="stable").astype(np.int32)
    offsets = np.searchsorted(slab[order], np.arange(_SLABS + 1))
    labels = tuple(f"slab{i}" for i in range(_SLABS))
    truth = GroundTruth(tuple(range(_SLABS)), labels, order, offsets, count)
    scan = Scan("room", cloud, scene.triangles, np.arange(count), scene.views, truth)
    logits = [blob_logits(size.queries, size.mask, view) for view in range(size.views)]
    return Inputs(scan, logits, size)


def run(inputs: Inputs, folder: Path) -> Costs:
    """Run all stages on a scene; WrongAnswer when a stage gives an empty result."""
    costs, scan = Costs(), inputs.scan
    with costs.artifact("prepare", folder) as prepared:
        _prepare(scan, prepared)
    scene = read_scene(prepared)
    with costs.artifact("links", folder) as links:
        names = [view.view_id for view in scene.views]
        write_links(links, names, len(scene.cloud), link_points.run(scene, LinkConfig()))
    with costs.artifact("teacher cache", folder) as teacher:
        _cache(inputs, teacher)
    with costs.artifact("fuse", folder) as fused:
        _fuse(scene, links, teacher, fused)
    labels = read_pseudo(fused)
    prompts = [Prompt(name, scene.scene_id, "the thing", "reasoning") for name in labels.prompt_ids]
    with costs.of("training sample"):
        compact = training_samples.compact(TrainingScene(scene, prompts, labels))
        sample = draw_sample(compact, compact.tokens[:0], _SAMPLE, sample_generator(0, 0, 0))
    require(len(sample.features) > 0, "chain: an empty training sample")
    with costs.of("evaluate"):
        found = evaluate.run([evaluation_scene(scan, prompts, labels)])
    require(len(found.rows) == inputs.size.queries, "chain: queries without a score")
    return costs


def _prepare(scan: Scan, place: Path) -> None:
    """Prepare the scene with every view, without choosing views."""
    cfg = PrepareConfig(max_views=len(scan.views))
    made = prepare_scene.run(scan, cfg)
    write_scene(
        place,
        made.cloud,
        made.triangles,
        made.superpoint_ids,
        made.views,
        made.depths,
        made.truth,
        made.scene_id,
        neighbours=made.neighbours,
    )


def _cache(inputs: Inputs, place: Path) -> None:
    size, names = inputs.size, [view.view_id for view in inputs.scan.views]
    writer = TeacherWriter(place, names, [f"query{query}" for query in range(size.queries)])
    cells = float(size.mask[1])
    writer.begin(size.mask, (cells, cells * size.height / size.width), EMBEDDING)
    for view, logits in enumerate(inputs.logits):
        writer.write_view(view, answers(logits, EMBEDDING, 0.15, view))


def _fuse(scene: Scene, links: Path, teacher: Path, place: Path) -> None:
    cache = TeacherCache(teacher / FILE)
    labels = fuse_masks.run(scene, read_links(links), cache, FuseConfig())
    require(bool(labels.soft.any()), "chain: empty labels")
    write_pseudo(place, labels)


def evaluation_scene(scan: Scan, prompts: list[Prompt], labels: PseudoLabels) -> EvaluationScene:
    """Make a scene whose sources all answer with the lifted labels; query i is about slab i."""
    truths = {
        prompt.prompt_id: PromptTruth(prompt.prompt_id, (number % _SLABS,), "slab")
        for number, prompt in enumerate(prompts)
    }
    masks = dict(zip(labels.prompt_ids, labels.answers(), strict=True))
    return EvaluationScene(
        scan.scene_id, prompts, truths, scan.truth, {source: masks for source in SOURCES}
    )


def renamed(scene: EvaluationScene, number: int) -> EvaluationScene:
    """Return the same scene under another name, as a further scene."""
    names = {prompt.prompt_id: f"{prompt.prompt_id}_{number}" for prompt in scene.prompts}
    room = f"room{number}"
    prompts = [replace(p, prompt_id=names[p.prompt_id], scene_id=room) for p in scene.prompts]
    truths = {names[k]: replace(t, prompt_id=names[k]) for k, t in scene.truths.items()}
    masks = {
        source: {names[k]: mask for k, mask in of_source.items()}
        for source, of_source in scene.masks.items()
    }
    return replace(scene, scene_id=room, prompts=prompts, truths=truths, masks=masks)
