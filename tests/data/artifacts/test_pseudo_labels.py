"""Pseudo-labels on disk, and the chain oracle, cache, links, fusion on a room known exactly."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts.links import read_links, write_links
from data.artifacts.soft_masks import PseudoLabels, read_pseudo, write_pseudo
from data.artifacts.teacher import TeacherWriter, read_teacher
from data.errors import ArtifactError
from data.types import GroundTruth
from stages.configs import FuseConfig, LinkConfig, TeacherConfig
from stages.fusion import fuse_masks
from stages.network_configs import OracleConfig
from stages.scene import link_points
from stages.teacher import run_teacher
from stages.teacher.oracle import make_oracle
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.teacher_world import EXACT, finish, random_case, with_images

PLAIN = FuseConfig(superpoints=False, prior=0.5, no_seg_weight=0.5)
UNIFORM = FuseConfig(views="all", superpoints=False, prior=0, no_seg_weight=0)


def test_pseudo_labels_survive_the_disk(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path / "cache")
    labels = fuse_masks.run(scene, links, cache, FuseConfig())
    tiny = labels.confidence.copy()
    tiny[0, 0] = 1e-6
    labels = replace(labels, confidence=tiny)
    (tmp_path / "pseudo").mkdir()
    write_pseudo(tmp_path / "pseudo", labels)
    with pytest.raises(ArtifactError, match="a finished artifact"):
        read_pseudo(tmp_path / "pseudo")
    again = read_pseudo(finish(tmp_path / "pseudo"))
    for name in ("scene_id", "prompt_ids", "view_ids", "drop_reasons"):
        assert getattr(again, name) == getattr(labels, name)
    np.testing.assert_array_equal(again.view_weights, labels.view_weights)
    for name in ("query_tokens", "thresholds", "view_confidences", "soft"):
        np.testing.assert_array_equal(getattr(again, name), getattr(labels, name))
    np.testing.assert_allclose(again.view_tokens, labels.view_tokens, atol=1e-3)
    np.testing.assert_allclose(again.confidence, labels.confidence, atol=1 / 255)
    np.testing.assert_array_equal(again.confidence > 0, labels.confidence > 0)
    (tmp_path / "pseudo" / "pseudo.zarr" / "soft" / "c" / "0" / "0").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="FuseMasks"):
        read_pseudo(tmp_path / "pseudo")


def test_ill_fitting_pseudo_labels_are_refused(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, PLAIN)
    for change in (
        {"soft": labels.soft.astype(np.float64)},
        {"soft": labels.soft[:, :-1]},
        {"view_weights": labels.view_weights[:, 1:]},
        {"query_tokens": labels.query_tokens[1:]},
        {"query_tokens": labels.query_tokens[:, 1:]},
        {"thresholds": labels.thresholds[1:]},
        {"thresholds": labels.thresholds[:, None]},
        {"thresholds": labels.thresholds.astype(np.float64)},
        {"view_tokens": labels.view_tokens[:, 1:]},
        {"view_tokens": labels.view_tokens[:, :, 1:]},
        {"view_confidences": labels.view_confidences[:, 1:]},
        {"evidence": labels.evidence[1:]},
        {"evidence": labels.evidence[:, 1:]},
        {"drop_reasons": labels.drop_reasons[1:]},
        {"drop_reasons": tuple(row[1:] for row in labels.drop_reasons)},
    ):
        with pytest.raises(ValueError):
            replace(labels, **change)


def test_answers_by_hand(tmp_path: Path) -> None:
    labels = fuse_masks.run(*random_case(tmp_path), PLAIN)
    soft = np.zeros((4, 3), np.float32)
    soft[:2] = [[0.5, 0.25, 0.75], [1, 0.5, 0]]
    thresholds = np.array([0.5, 2, 0.25, 2], np.float32)
    some = replace(labels, soft=soft, confidence=soft, thresholds=thresholds)
    wanted = [[True, False, True], [False] * 3, [False] * 3, [False] * 3]
    np.testing.assert_array_equal(some.answers(), wanted)


def _chain(
    folder: Path, cfg: OracleConfig, fuse: FuseConfig
) -> tuple[PseudoLabels, GroundTruth, list[tuple[int, ...]]]:
    """Oracle, links and fusion on the tiny room; the truth is destroyed before fusing."""
    scene, truth = make_tiny_scene()
    folder.mkdir()
    scene = with_images(scene, folder)
    prompts, truths = make_tiny_prompts()
    writer = TeacherWriter(folder, [v.view_id for v in scene.views], [p.prompt_id for p in prompts])
    teacher_cfg = TeacherConfig(oracle=cfg)
    spoilt = replace(truth, point_ids=truth.point_ids.copy())
    run_teacher.run(
        scene, prompts, lambda: make_oracle(scene, spoilt, prompts, truths, teacher_cfg), writer
    )
    spoilt.point_ids[:] = 0
    links_folder = folder / "links"
    links_folder.mkdir()
    cfg_link = LinkConfig()
    write_links(
        links_folder,
        [v.view_id for v in scene.views],
        len(scene.cloud),
        link_points.run(scene, cfg_link),
    )
    cache = read_teacher(finish(folder))
    labels = fuse_masks.run(scene, read_links(finish(links_folder)), cache, fuse)
    return labels, truth, [t.object_ids for t in truths]


def test_an_exact_oracle_gives_exact_labels(tmp_path: Path) -> None:
    errors = {name: value for name, value in asdict(EXACT).items() if name != "seed"}
    exact = OracleConfig(**errors, stride=1)
    labels, truth, targets = _chain(tmp_path / "a", exact, PLAIN)
    height = make_tiny_scene()[0].cloud.points[:, 2]
    seen = (labels.confidence > 0) & (height > 0.05)  # feet and floor share their place
    for query, object_ids in enumerate(targets):
        mask = truth.mask(object_ids)
        wrong = ((labels.soft[query] > 0.5) != mask) & seen[query]
        assert not wrong[~mask].any(), "nothing else is claimed"
        assert wrong.sum() <= 0.15 * (mask & seen[query]).sum(), "edges only"
    assert not (labels.soft[4] > 0.5).any() and seen[4].any(), "absent: confidently empty"


def test_superpoints_and_the_gate_help_a_bad_teacher(tmp_path: Path) -> None:
    bad = OracleConfig(stride=2, hallucinate=0.6, ragged=0.2, min_cells=4)
    scores = {}
    for name, fuse in (("gated", FuseConfig()), ("uniform", UNIFORM)):
        labels, truth, targets = _chain(tmp_path / name, bad, fuse)
        ious = []
        for query, object_ids in enumerate(targets[:4]):
            mask, found = truth.mask(object_ids), labels.soft[query] > 0.5
            ious.append((mask & found).sum() / (mask | found).sum())
        scores[name] = float(np.mean(ious))
    assert scores["gated"] > scores["uniform"]
