"""What cannot be loaded as LISA is refused in one clear message that says what and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.worlds.lisa_folders import copy_golden, golden_tensors, refusal, write_bin


def _without(tensors: dict[str, Tensor], start: str) -> list[str]:
    gone = [key for key in tensors if key.startswith(start) and "inv_freq" not in key]
    for key in gone:
        del tensors[key]
    return gone


@pytest.mark.parametrize(
    "start",
    [
        "lm_head",
        "model.norm",
        "model.mm_projector",
        "model.text_hidden_fcs",
        "model.embed_tokens",
        "model.visual_model.mask_decoder.iou_token",
        "model.visual_model.mask_decoder.mask_tokens",
        "model.visual_model.image_encoder.pos_embed",
        "model.visual_model.image_encoder.patch_embed",
        "model.visual_model.image_encoder.blocks.1.attn.rel_pos_h",
        "model.visual_model.prompt_encoder.pe_layer",
    ],
)
def test_missing_keys_are_named(start: str, tmp_path: Path) -> None:
    folder, tensors = copy_golden("v1", tmp_path, with_weights=False), golden_tensors("v1")
    gone = _without(tensors, start)
    write_bin(folder, tensors)
    told = refusal(folder)
    assert f"{len(gone)} missing" in told
    assert all(key in told for key in gone)
    assert str(folder) in told


def test_a_model_without_sam_is_told_by_count_and_first_keys(tmp_path: Path) -> None:
    folder, tensors = copy_golden("v1", tmp_path, with_weights=False), golden_tensors("v1")
    _without(tensors, "model.visual_model")
    write_bin(folder, tensors)
    told = refusal(folder)
    assert "missing: model.visual_model." in told
    assert told.count("model.visual_model.") == 10
    assert ", ..." in told
    assert "misshapen" not in told


def test_unexpected_and_misshapen_keys_are_named(tmp_path: Path) -> None:
    folder, tensors = copy_golden("v1", tmp_path, with_weights=False), golden_tensors("v1")
    tensors["model.visual_model.image_encoder.extra"] = torch.zeros(1)
    tensors["somebody.elses"] = torch.zeros(1)
    tensors["model.norm.weight"] = torch.zeros(63)
    tensors["lm_head.weight"] = torch.zeros(516, 65)
    write_bin(folder, tensors)
    told = refusal(folder)
    assert "2 unexpected: model.visual_model.image_encoder.extra, somebody.elses" in told
    assert "2 misshapen: " in told
    assert "model.norm.weight [63] instead of [64]" in told
    assert "lm_head.weight [516, 65] instead of [516, 64]" in told


def test_a_vision_tower_that_lacks_keys_is_refused(tmp_path: Path) -> None:
    copy_golden("v1", tmp_path)
    weights = tmp_path / "clip-vit-tiny" / "pytorch_model.bin"
    tensors = torch.load(weights, weights_only=True)
    del tensors["vision_model.pre_layrnorm.bias"]
    torch.save(tensors, weights)
    told = refusal(tmp_path / "checkpoint")
    assert "1 missing: vision_model.pre_layrnorm.bias" in told
    assert "CLIP" in told


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def _set(**changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        kept = {key: value for key, value in (content | changed).items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return damage


def _cut(folder: Path) -> None:
    shard = folder / "pytorch_model-00001-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:5000])


def _pickle(folder: Path) -> None:
    torch.save({"weights": SimpleNamespace(a=1)}, folder / "pytorch_model-00001-of-00002.bin")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_remove("config.json"), "config.json"),
        (_write("config.json", "{"), "invalid JSON"),
        (_write("config.json", "[1]"), "a list"),
        (_set(hidden_size=None), "hidden_size"),
        (_set(hidden_size="64"), "hidden_size"),
        (_set(num_attention_heads=7), "config.json"),
        (_set(hidden_size=32), "misshapen"),
        (_set(num_hidden_layers=3), "missing: model.layers.2"),
        (_set(num_hidden_layers=1), "unexpected: model.layers.1"),
        (_set(sam={"decoder_num_attention_heads": 3}), "num_attention_heads"),
        (_set(sam=[1]), "config.json"),
        (_set(sam={"num_attention_heads": "two"}, rope_scaling={"type": "?"}), "config.json"),
        (_set(refusal="unknown thing"), "a probability above 0"),
        (_set(refusal={"words": "unknown thing", "least": 0}), "a probability above 0"),
        (_set(mm_vision_tower=None, vision_tower=None), "mm_vision_tower"),
        (_remove("tokenizer.model"), "tokenizer.model"),
        (_remove("added_tokens.json"), "added_tokens.json"),
        (_write("added_tokens.json", '{"[SEG]": 600}'), "ids below 516"),
        (_remove("pytorch_model-00002-of-00002.bin"), "1 missing: pytorch_model-00002-of-00002"),
        (_write("pytorch_model-00002-of-00002.bin", b""), "pytorch_model-00002-of-00002.bin"),
        (_write("pytorch_model-00002-of-00002.bin", b"version https://git-lfs"), "tensors"),
        (_cut, "pytorch_model-00001-of-00002.bin"),
        (_pickle, "pytorch_model-00001-of-00002.bin"),
        (_write("pytorch_model.bin.index.json", "{}"), "weight_map"),
        (
            _write("pytorch_model.bin.index.json", '{"weight_map": {"a": "../secret.bin"}}'),
            "../secret.bin",
        ),
        (_remove("pytorch_model.bin.index.json"), "model.safetensors or pytorch_model.bin"),
        (_write("model.safetensors", b"\x08\0\0\0\0\0\0\0garbage!"), "model.safetensors"),
    ],
)
def test_damaged_folders_are_refused(
    damage: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    folder = copy_golden("v1", tmp_path)
    damage(folder)
    assert told in refusal(folder)


def test_images_of_another_size_than_clip_was_trained_on_are_refused(tmp_path: Path) -> None:
    folder = copy_golden("v1", tmp_path)
    settings = tmp_path / "clip-vit-tiny" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("224", "336"))
    assert "336" in refusal(folder)
