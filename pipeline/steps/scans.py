"""Steps from a data set's files to scenes, prompts and links between points and pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.object_store import StoragePath
from data.artifacts.store import fingerprint
from data.queries.formats import DEFAULT_FORMAT, FORMATS, SENTENCES
from data.types import SPLITS
from pipeline.scene_sets import Dataset, digest
from pipeline.steps.declaration import Input, Part, Preload, Source, Step, declare
from pipeline.steps.step_inputs import LOG, StepInputs

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from stages.configs import PromptsConfig
    from stages.queries.prepare_prompts import PreparedPrompts


def is_generated(plan: Plan) -> bool:
    """Whether the pipeline generates the scene set's rooms."""
    return plan.scene_set.generated


def has_places(plan: Plan) -> bool:
    """Whether the set has places of several rooms that are searched together."""
    return bool(plan.dataset.places)


def scan_identity(plan: Plan, scene_id: str) -> str:
    """Fingerprint of a scan's files, from the set's reader."""
    if plan.scene_set.generated:
        return plan.key("generate_room", scene_id).fingerprint
    identity = str(plan.reader.scene_identity(plan.root, scene_id, plan.experiment.prepare.camera))
    parts = (plan.scene_set.version, plan.scene_set.reader_digest, identity)
    return ":".join(part for part in parts if part)


def views_identity(version: int, camera: str, max_views: int, scan: str) -> str:
    """Fingerprint of a prepared scene's points, views and depth, without its superpoints.

    Links and teacher masks depend on nothing else of the scene, so a change of the superpoints
    does not run the teacher again.
    """
    config = {"camera": camera, "max_views": max_views}
    return fingerprint("views", version, config, {"scan": scan})


def _views_of(plan: Plan, scene_id: str) -> str:
    cfg = plan.experiment.prepare
    scan = scan_identity(plan, scene_id)
    return views_identity(PREPARE_SCENE.version, cfg.camera, cfg.max_views, scan)


def scene_views(*parts: str) -> Input:
    """The input "views": a prepared scene, identified without its superpoints."""
    explanation = "the scan's files, prepare.camera or prepare.max_views"
    return Input("views", "prepare_scene", parts, identity=_views_of, explanation=explanation)


def queries_identity(plan: Plan, scene_id: str | None) -> str:
    """Fingerprint of the queries of one scene, or of all scenes for None."""
    rooms = () if scene_id is None else plan.dataset.place_rooms(scene_id)
    if len(rooms) > 1:
        # A room's prompts depend on the searches of its whole place.
        return digest([_own_queries(plan, room) for room in rooms] + plan.dataset.search_words)
    return _own_queries(plan, scene_id)


def _own_queries(plan: Plan, scene_id: str | None) -> str:
    if plan.scene_set.generated:
        index = scene_id is None
        key = plan.key("generate_rooms") if index else plan.key("generate_room", scene_id)
        return key.fingerprint
    content: Any = plan.dataset.query_records
    if scene_id is not None:
        content = plan.scene_set.queries_of(content, scene_id)
    return digest(content)


def bank_identity(plan: Plan, scene_id: str | None = None) -> dict[str, str]:
    """Fingerprint of the categories that every scene is asked about besides its queries."""
    return {"bank": digest(plan.experiment.prompts.bank)}


BANK = Source(bank_identity, {"bank": "prompts.bank"})


def make_room(inputs: StepInputs, folder: Path) -> None:
    """Generate one room, a scene folder of the generated data set."""
    from stages.scene import generate_rooms as stage

    split = inputs.dataset.split_of(inputs.scene)
    number = inputs.dataset.scenes(split).index(inputs.scene)
    stage.run_room(inputs.dataset.root, split, number, inputs.config)


def make_rooms_index(inputs: StepInputs, folder: Path) -> None:
    """Write the files that cover all rooms: splits, metadata and queries."""
    from stages.scene import generate_rooms as stage

    stage.run_index(inputs.dataset.root, inputs.config)


def make_scene(inputs: StepInputs, folder: Path) -> None:
    """Convert a scan to ``scene.h5``."""
    from data.artifacts.scene import write_scene
    from stages.scene import prepare_scene as stage

    dataset = inputs.dataset
    scan = dataset.reader.read_scan(dataset.root, inputs.scene, inputs.config.camera)
    prepared = stage.run(scan, inputs.config, inputs.progress())
    write_scene(
        folder,
        prepared.cloud,
        prepared.triangles,
        prepared.superpoint_ids,
        prepared.views,
        prepared.depths,
        prepared.truth,
        inputs.scene,
        dataset.root,
        prepared.annotation_sha256,
        prepared.neighbours,
    )


def make_prompts(inputs: StepInputs, folder: Path) -> None:
    """Convert query files to prompts and, in a file apart, their ground truth."""
    from data.artifacts.prompts import write_prompts

    made = prepared_prompts(inputs.dataset, inputs.config)
    for scene in made.unreadable:
        LOG.warning(
            "PreparePrompts: queries of %s are left out: its annotation cannot be read", scene
        )
    for dataset, count in made.other_datasets.items():
        LOG.warning(
            "PreparePrompts: %d queries are left out: they are about data set %s", count, dataset
        )
    if made.lacking:
        first = ", ".join(f"{key} {list(ids)}" for key, ids in list(made.lacking.items())[:5])
        LOG.warning(
            "PreparePrompts: %d of %d queries name objects that their scene lacks; they are kept: "
            "%s (all: truths.json)",
            *(len(made.lacking), len(made.truths), first),
        )
    write_prompts(folder, made.prompts, made.truths, made.id_space, made.lacking, made.searches)


def prepared_prompts(dataset: Dataset, cfg: PromptsConfig) -> PreparedPrompts:
    """Prompts of all queries of a set; DataError for damaged query files and annotations."""
    from stages.queries import prepare_prompts as stage

    scene_set = dataset.scene_set
    splits: dict[str, Sequence[str]] = {
        split: names for split in SPLITS if (names := dataset.scenes(split))
    }
    paths = {s: scene_set.query_path(dataset.root, s) for s in SPLITS if s in splits}
    if scene_set.query_format == SENTENCES:
        from data.queries import formats

        read = {str(split): formats.read_sentences(path) for split, path in paths.items()}
        prompts = stage.run_sentences(read, splits)
        return stage.PreparedPrompts(prompts, [], "none", {}, {}, {})
    form = FORMATS[scene_set.query_format]
    records = [record for path in dict.fromkeys(paths.values()) for record in form.read(path)]
    return stage.run(
        records,
        splits,
        lambda scene: dataset.reader.read_group_names(dataset.root, scene),
        cfg,
        scene_set.class_table(dataset.root),
        {place: rooms for places in dataset.places.values() for place, rooms in places.items()},
    )


def make_links(inputs: StepInputs, place: StoragePath) -> None:
    """Write the visible points of each view."""
    from data.artifacts.links import write_links
    from stages.scene import link_points as stage

    scene = inputs.read("views")
    links = stage.run(scene, inputs.config, inputs.progress(), inputs.device_if_gpu)
    write_links(place, [view.view_id for view in scene.views], len(scene.cloud), links)


def _prompts_config(plan: Plan) -> dict[str, Any]:
    splits = {split: list(names) for split, names in plan.dataset.by_split.items() if names}
    prompts = plan.experiment.prompts.model_dump(exclude={"bank", "rooms"})
    config: dict[str, Any] = {**prompts, "splits": splits}
    if plan.dataset.places:
        config |= {"places": plan.dataset.places, "words": plan.dataset.search_words}
    if plan.scene_set.query_format != DEFAULT_FORMAT:
        config["query_format"] = plan.scene_set.query_format
    return config


def _query_files(plan: Plan, scene_id: str | None) -> Mapping[str, str]:
    identities = {"queries": queries_identity(plan, None)}
    identities |= {f"scan {scene}": scan_identity(plan, scene) for scene in plan.scenes()}
    is_default = plan.scene_set.query_format == DEFAULT_FORMAT
    return identities if is_default else identities | plan.dataset.class_digests


def _scan_files(plan: Plan, scene_id: str | None) -> Mapping[str, str]:
    return {"scan": scan_identity(plan, str(scene_id))}


_SCAN_FILES = {"scan": "the scan's files"}

GENERATE_ROOM = declare(
    Step(
        name="generate_room",
        version=1,
        summary="One procedural room of a generated scene set.",
        make="pipeline.steps.scans:make_room",
        section="generate",
        scenes="all",
        within="generate_rooms",
        exists=is_generated,
        resumable=True,
        preload=Preload(
            ("data.rooms.write",),
            (
                *("data.rooms.render", "data.geometry.raycast", "data.geometry.depth_fusion"),
                *("data.rooms.scanning.sensors", "data.rooms.scanning.photographs"),
                "data.rooms.scanning.surface",
            ),
            ("data.geometry.raycast:open3d",),
        ),
    )
)
GENERATE_ROOMS = declare(
    Step(
        name="generate_rooms",
        version=1,
        summary="Splits, metadata and queries of a generated scene set, around all its rooms.",
        make="pipeline.steps.scans:make_rooms_index",
        section="generate",
        inputs=(Input("room", "generate_room", scenes="all", known_by="config"),),
        exists=is_generated,
        resumable=True,
        in_report=False,
        preload=Preload(("data.rooms.write",)),
    )
)
PREPARE_SCENE = declare(
    Step(
        name="prepare_scene",
        version=4,
        summary="A scan as a scene: points, superpoints, cameras and depth, and apart, labels.",
        make="pipeline.steps.scans:make_scene",
        section="prepare",
        scenes="all",
        inputs=(Input("room", "generate_room", known_by="scan"),),
        sources=(Source(_scan_files, _SCAN_FILES),),
        parts={
            "scene": Part("data.artifacts.scene:read_scene", takes_root=True),
            "truth": Part("data.artifacts.scene:read_ground_truth", has_labels=True),
        },
        preload=Preload(
            ("stages.scene.prepare_scene", "data.artifacts.scene"),
            (
                *("data.geometry.superpoints", "data.geometry.raycast"),
                *("data.geometry.visibility", "data.geometry.depth_fusion"),
            ),
            ("data.geometry.raycast:open3d",),
        ),
    )
)
PREPARE_PROMPTS = declare(
    Step(
        name="prepare_prompts",
        version=2,
        summary="All queries of the set, checked against its scenes.",
        make="pipeline.steps.scans:make_prompts",
        section="prompts",
        config=_prompts_config,
        inputs=(Input("rooms", "generate_rooms", scenes="set", known_by="queries"),),
        sources=(Source(_query_files, {**_SCAN_FILES, "queries": "the query files"}),),
        parts={
            "prompts": Part("data.artifacts.prompts:read_prompts"),
            "searches": Part("data.artifacts.prompts:read_searches"),
            "truths": Part("data.artifacts.prompts:read_truths", has_labels=True),
        },
    )
)
LINK_POINTS = declare(
    Step(
        name="link_points",
        version=3,
        summary="Visible points of each view, with their pixel coordinates.",
        make="pipeline.steps.scans:make_links",
        section="link",
        scenes="all",
        inputs=(scene_views("scene"),),
        parts={"links": Part("data.artifacts.links:read_links")},
        in_object_store=True,
        uses_gpu=True,
        preload=Preload(
            ("stages.scene.link_points", "data.artifacts.links", "data.artifacts.scene"),
            ("data.geometry.visibility",),
        ),
    )
)
