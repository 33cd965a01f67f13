"""Query files to prompts: see ``pipeline.jobs``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.queries.formats import FORMATS, SENTENCES
from data.types import SPLITS
from pipeline.plan import Plan

if TYPE_CHECKING:
    from stages.queries.prepare_prompts import PreparedPrompts

_LOG = logging.getLogger("luigi-interface.stages")


def prepare_prompts(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Query files to prompts and, apart, their truths."""
    from data.artifacts.prompts import write_prompts

    prepared = prepared_prompts(plan)
    for scene in prepared.unreadable:
        _LOG.warning("PreparePrompts: queries of %s left out, its annotation is unreadable", scene)
    for dataset, count in prepared.other_datasets.items():
        _LOG.warning("PreparePrompts: %d queries left out, they are about %s", count, dataset)
    if prepared.lacking:
        first = ", ".join(f"{key} {list(ids)}" for key, ids in list(prepared.lacking.items())[:5])
        told = (
            "%d of %d queries name objects their scene lacks, and are kept: %s (all: truths.json)"
        )
        _LOG.warning("PreparePrompts: " + told, len(prepared.lacking), len(prepared.truths), first)
    asked, searches = prepared.prompts, prepared.searches
    space, lacking = prepared.id_space, prepared.lacking
    write_prompts(folder, asked, prepared.truths, space, lacking, searches)


def prepared_prompts(plan: Plan) -> PreparedPrompts:
    """All queries of a set; DataError as of the stage and of the files' readers."""
    from stages.queries import prepare_prompts as stage

    splits: dict[str, Sequence[str]] = {
        split: names for split in SPLITS if (names := plan.scenes(split))
    }
    paths = {s: plan.scene_set.query_path(plan.root, s) for s in SPLITS if s in splits}
    query_format = plan.scene_set.query_format
    if query_format == SENTENCES:
        from data.queries import formats
        from stages.queries import prepare_prompts as prepare_sentences

        read = {str(split): formats.read_sentences(path) for split, path in paths.items()}
        prompts = prepare_sentences.run_sentences(read, splits)
        return stage.PreparedPrompts(prompts, [], "none", {}, {}, {})
    form = FORMATS[query_format]
    records = [record for path in dict.fromkeys(paths.values()) for record in form.read(path)]
    return stage.run(
        records,
        splits,
        lambda scene: plan.reader.read_group_names(plan.root, scene),
        plan.experiment.prompts,
        plan.scene_set.class_table(plan.root),
        {place: rooms for places in plan.places.values() for place, rooms in places.items()},
    )
