"""CLIP embeddings of class sets: against transformers itself, by command, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from data.artifacts.embeddings import ClassEmbeddings, read_class_embeddings
from data.errors import ArtifactError, ConfigError, DataError, UserError
from data.queries import classes
from data.queries.classes import FILE_NAMES, HUB_IDS, TEMPLATES
from pipeline.tasks.class_embeddings import EmbedClasses
from stages.queries import embed_classes
from tests.support.cli import luigi, tasks_done
from tests.support.worlds.text_folders import clip_folder

CLASSES = ("wall", "office chair", "shower curtain")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("weights") / "clip")


def by_transformers(folder: Path, texts: list[str]) -> torch.Tensor:
    """Unit vectors, one text after the other, as transformers' documentation has it."""
    model: Any = CLIPTextModelWithProjection.from_pretrained(folder)
    model.eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer([text], return_tensors="pt", truncation=True, max_length=24)
            rows.append(model(**inputs).text_embeds[0])
    return functional.normalize(torch.stack(rows), dim=1)


@pytest.mark.parametrize("templates", TEMPLATES)
def test_vectors_are_those_of_transformers_averaged_over_templates(
    clip: Path, templates: str
) -> None:
    found = embed_classes.run(CLASSES, templates, "ViT-B/16", clip)
    assert found.classes == CLASSES and found.templates == TEMPLATES[templates]
    for row, name in zip(found.embeddings, CLASSES, strict=True):
        texts = [template.replace("{}", name) for template in TEMPLATES[templates]]
        mean = by_transformers(clip, texts).mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-6)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)


def test_every_template_has_one_place_for_a_name_and_every_model_a_hub_id() -> None:
    for templates in TEMPLATES.values():
        assert templates and all(one.count("{}") == 1 for one in templates)
        assert len(set(templates)) == len(templates)
    assert set(HUB_IDS) == set(FILE_NAMES)


def write_lists(root: Path) -> None:
    """Small lists in the layout of each data set, below ``root``."""
    benchmark = root / "scannetpp" / "metadata" / "semantic_benchmark"
    benchmark.mkdir(parents=True)
    (benchmark / "top100.txt").write_text("wall\noffice chair\n")
    (root / "scannet" / "queries").mkdir(parents=True)
    (root / "scannet" / "queries" / "scannet200.txt").write_text("2\n5\n")
    table = "raw_category\tid\tcategory\nwall\t2\twall\nseat\t5\toffice_chair\n"
    (root / "scannet" / "scannetv2-labels.combined.tsv").write_text(table)
    (root / "matterport").mkdir()
    (root / "matterport" / "category_mapping.tsv").write_text(
        "index\traw_category\n1\twall\n2\tarm chair\n3\tarm_chair\n"
    )


def test_lists_come_from_their_data_sets(tmp_path: Path) -> None:
    write_lists(tmp_path)
    found = {name: classes.class_names(name, tmp_path / classes.dataset_of(name))
             for name in ("scannetpp_top100", "scannet200", "matterport")}  # fmt: skip
    assert found == {
        "scannetpp_top100": ("wall", "office chair"),
        "scannet200": ("wall", "office chair"),
        "matterport": ("wall", "arm chair", "arm chair"),  # Told apart by their numbers.
    }
    (tmp_path / "scannet" / "queries" / "scannet200.txt").write_text("wall\nseat\n")
    assert classes.class_names("scannet200", tmp_path / "scannet") == ("wall", "seat")
    twenty = classes.class_names("scannet20", None)
    assert len(set(twenty)) == 20 and twenty[0] == "wall" and twenty[-2] == "bathtub"
    (tmp_path / "mine.txt").write_text("wall\nwall_clock\n")
    assert classes.class_names(str(tmp_path / "mine.txt"), None) == ("wall", "wall clock")


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "no such file"), ("", "empty file"), ("a\nA\n", "twice"), ("a\n\nb\n", "line 2 blank")],
)
def test_a_missing_or_wrong_list_is_named(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=f"mine.txt.*{told}"):
        classes.class_names(str(path), None)
    with pytest.raises(DataError, match="top100.txt.*--data-root"):
        classes.class_names("scannetpp_top100", tmp_path)
    with pytest.raises(ConfigError, match="no set 'coco'. Known sets: scannet20, scannet200"):
        classes.class_names("coco", None)


def test_the_command_writes_what_other_scripts_load_and_reruns_for_other_weights(
    clip: Path, tmp_path: Path
) -> None:
    write_lists(tmp_path)
    here = ("EmbedClasses", "--classes", "scannetpp_top100", "--weights")
    data = {"MLLM3D_DATA": str(tmp_path)}
    first = luigi(tmp_path, *here, str(clip), **data)
    assert first.returncode == 0 and tasks_done(first.stdout) == {"EmbedClasses": 1}, first.stdout
    (path,) = (tmp_path / "output").rglob("scannetpp_top100_ViT16_clip_text.pth")
    tensor = torch.load(path, weights_only=True)
    assert tensor.dtype == torch.float32 and tensor.shape == (2, 20)
    content = read_class_embeddings(path.parent)
    assert content.classes == ("wall", "office chair")
    np.testing.assert_array_equal(content.embeddings, tensor.numpy())
    expected = embed_classes.run(content.classes, "indoor", "ViT-B/16", clip).embeddings
    np.testing.assert_allclose(content.embeddings, expected, atol=1e-6)
    moved = shutil.copytree(clip, tmp_path / "moved")
    assert not tasks_done(luigi(tmp_path, *here, str(moved), **data).stdout)
    other = clip_folder(tmp_path / "other", seed=1)
    again = luigi(tmp_path, *here, str(other), "--templates", "photo", **data)
    assert tasks_done(again.stdout) == {"EmbedClasses": 1}
    assert len(list((tmp_path / "output").rglob("*.pth"))) == 2


def key_of(**parameters: str) -> str:
    return EmbedClasses(**parameters).key().fingerprint


def test_what_is_made_from_other_things_has_another_name(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    write_lists(tmp_path)
    usual = {"classes": "scannet20", "weights": str(clip)}
    keys = {key_of(**usual)}
    keys.add(key_of(**usual, templates="photo"))
    keys.add(key_of(**usual, clip="ViT-L/14"))
    keys.add(key_of(**{**usual, "weights": str(clip_folder(tmp_path / "other", seed=1))}))
    found = {**usual, "classes": "matterport", "data_root": str(tmp_path / "matterport")}
    keys.add(key_of(**found))
    assert len(keys) == 5
    with pytest.raises(ConfigError, match="lies in no data set"):
        EmbedClasses(**usual, data_root=str(tmp_path))


def unreachable(*arguments: object, **options: object) -> None:
    raise OSError("no network")


def test_missing_or_broken_weights_give_one_error_with_what_to_fetch(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("models.hub.hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    told = r"--weights: CLIP ViT-B/16 cannot be read.*hf download openai/clip-vit-base-patch16"
    with pytest.raises(UserError, match=told):
        embed_classes.run(CLASSES, "photo", "ViT-B/16", "openai/clip-vit-base-patch16")
    broken = Path(shutil.copytree(clip, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=told):
        embed_classes.run(CLASSES, "photo", "ViT-B/16", broken)
    nowhere = luigi(tmp_path, "EmbedClasses", "--classes", "scannet20", HF_HUB_OFFLINE="1")
    assert nowhere.returncode == 30 and nowhere.stdout.count("hf download") == 1
    assert "Traceback" not in nowhere.stdout
    for weights in ("no/such/folder/here", str(tmp_path)):
        run = luigi(tmp_path, "EmbedClasses", "--classes", "scannet20", "--weights", weights)
        assert run.returncode == 40 and "--weights" in run.stdout and "Traceback" not in run.stdout


def test_a_set_without_its_data_says_which_folder_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLLM3D_DATA", raising=False)
    with pytest.raises(ConfigError, match="--data-root, or export MLLM3D_DATA.*scannetpp/"):
        EmbedClasses(classes="scannetpp_top100")
    with pytest.raises(ConfigError, match="no --config"):
        EmbedClasses(classes="scannet20", overrides="student.lr=1")


@pytest.mark.parametrize(
    ("config", "clip", "told"),
    [
        ({"vision_config": {"patch_size": 14}}, "ViT-B/16", "patches of 16.*found 14"),
        ({"projection_dim": 768}, "ViT-B/32", "vectors of 512.*found 768"),
        ([], "ViT-B/16", "config of a CLIP"),
    ],
)
def test_another_clip_than_the_one_named_is_refused(
    tmp_path: Path, config: Any, clip: str, told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=told):
        EmbedClasses(classes="scannet20", weights=str(tmp_path), clip=clip)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"patch_size": 16}}))
    EmbedClasses(classes="scannet20", weights=str(tmp_path), clip="ViT-B/16")


def test_weights_that_give_no_numbers_are_an_error_of_the_user(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "nan"
    model: Any = CLIPTextModelWithProjection.from_pretrained(clip)
    model.text_projection.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    CLIPTokenizer.from_pretrained(clip).save_pretrained(broken)
    with pytest.raises(UserError, match="no direction for 3 of 3 classes, the first is 'wall'"):
        embed_classes.run(CLASSES, "name", "ViT-B/16", broken)


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="finished artifact"):
        read_class_embeddings(tmp_path)
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a"], "templates": []}))
    with pytest.raises(ArtifactError, match="embeddings.safetensors"):
        read_class_embeddings(tmp_path)
    with pytest.raises(ValueError, match="2 classes"):
        ClassEmbeddings(("a", "b"), ("{}",), np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        ClassEmbeddings(("a",), ("{}",), np.full((1, 4), np.nan, np.float32))
