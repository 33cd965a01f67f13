"""Checkpoint folders of LISA, in every form they come in; names of weights; sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.lisa import key_names
from models.lisa.checkpoint import load_lisa
from tests.support.worlds.lisa_folders import copy_golden, golden_tensors, same_weights, write_bin
from tests.support.worlds.lisa_golden import NAMES, golden


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_read_from_the_weights(name: str) -> None:
    facts, loaded = golden(name).facts, golden(name).loaded
    sam, sizes = facts["sam"], loaded.network.config
    vision: Any = loaded.network.image_encoder.config
    decoder: Any = sizes.sam.mask_decoder_config
    prompts: Any = sizes.sam.prompt_encoder_config
    assert (sizes.sam_size, sizes.embedding_dim) == (sam["img"], sam["prompt_dim"])
    assert (vision.hidden_size, vision.num_hidden_layers) == (sam["embed_dim"], sam["depth"])
    assert (vision.num_attention_heads, vision.window_size) == (sam["heads"], sam["window"])
    assert list(vision.global_attn_indexes) == sam["global_idx"]
    assert (decoder.mlp_dim, decoder.iou_head_hidden_dim) == (sam["dec_mlp"], sam["iou_hidden"])
    assert decoder.layer_norm_eps == 1e-5
    assert prompts.mask_input_channels == sam["mask_in_chans"]
    clip = sizes.clip.to_dict()
    side = clip["image_size"] // clip["patch_size"]
    assert side * side == facts["num_image_tokens"]
    assert sizes.llama.vocab_size == facts["vocab_size"]
    assert sizes.projector_layers == (2 if name == "plus" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_network_is_frozen_and_complete(name: str) -> None:
    network = load_lisa(golden(name).checkpoint).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    tensors = [*network.parameters(), *network.buffers()]
    assert all(tensor.device.type == "cpu" for tensor in tensors)
    assert all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())


@pytest.mark.parametrize("name", NAMES)
def test_published_names_and_ours_translate_both_ways(name: str) -> None:
    published = {key for key in golden_tensors(name) if not key_names.is_ignored(key)}
    ours = set(golden(name).loaded.network.state_dict())
    translated = {key_names.to_network(key) for key in published}
    assert translated == {name for name in ours if not key_names.is_tower(name)}
    assert {key_names.to_published(str(name)) for name in translated} == published


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model.text_hidden_fcs.0.2.bias", "seg_head.2.bias"),
        ("model.mm_projector.weight", "projector.weight"),
        ("model.mm_projector.2.weight", "projector.2.weight"),
        ("model.layers.11.mlp.up_proj.weight", "language_model.model.layers.11.mlp.up_proj.weight"),
        (
            "model.visual_model.image_encoder.blocks.10.norm2.bias",
            "image_encoder.layers.10.layer_norm2.bias",
        ),
        (
            "model.visual_model.mask_decoder.iou_prediction_head.layers.2.weight",
            "mask_decoder.iou_prediction_head.proj_out.weight",
        ),
        (
            "model.visual_model.mask_decoder.output_hypernetworks_mlps.3.layers.1.weight",
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight",
        ),
        # Half-known names must not slip through to a weight of another name.
        ("model.visual_model.image_encoder.layers.0.attn.qkv.weight", None),
        ("model.visual_model.image_encoder.neck.conv1.weight", None),
        ("image_encoder.pos_embed", None),
        ("model.mm_projectors.weight", None),
    ],
)
def test_single_names(key: str, name: str | None) -> None:
    assert key_names.to_network(key) == name


@pytest.mark.parametrize("form", ["bin", "old bin", "safetensors", "sharded safetensors", "both"])
def test_every_form_of_weight_files_loads_the_same(form: str, tmp_path: Path) -> None:
    folder = copy_golden("plus", tmp_path, with_weights=False)
    tensors = {key: tensor.contiguous() for key, tensor in golden_tensors("plus").items()}
    if form == "bin":
        write_bin(folder, tensors)
    elif form == "old bin":
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif form == "sharded safetensors":
        names = [f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)]
        shards = {name: dict(list(tensors.items())[part::3]) for part, name in enumerate(names)}
        for name, shard in shards.items():
            save_file(shard, folder / name)
        index = {key: name for name, shard in shards.items() for key in shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        save_file(tensors, folder / "model.safetensors")
    if form == "both":
        (folder / "pytorch_model.bin").write_bytes(b"not read while there are safetensors")
    assert same_weights(load_lisa(folder).network, golden("plus").loaded.network)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sam_and_its_head_stay_in_full_precision(dtype: Any) -> None:
    loaded = load_lisa(golden("v1").checkpoint, dtype=dtype)
    low = getattr(torch, dtype)
    assert loaded.dtype == low
    for name, tensor in loaded.network.named_parameters():
        is_low = name.startswith(("language_model.", "projector.", "vision_tower."))
        assert tensor.dtype == (low if is_low else torch.float32), name


def test_keys_that_are_recomputed_are_not_asked_for(tmp_path: Path) -> None:
    folder = copy_golden("v1", tmp_path, with_weights=False)
    tensors: dict[str, Tensor] = golden_tensors("v1")
    assert any(key.endswith("rotary_emb.inv_freq") for key in tensors)
    tensors = {k: t for k, t in tensors.items() if not k.endswith("rotary_emb.inv_freq")}
    tensors["model.vision_tower.vision_tower.embeddings.class_embedding"] = torch.zeros(3)
    tensors["model.visual_model.pixel_mean"] = torch.zeros(3, 1, 1)
    write_bin(folder, tensors)
    assert same_weights(load_lisa(folder).network, golden("v1").loaded.network)


def test_a_tied_output_layer_is_the_table_of_words(tmp_path: Path) -> None:
    folder = copy_golden("v1", tmp_path, {"tie_word_embeddings": True}, with_weights=False)
    tensors = golden_tensors("v1")
    del tensors["lm_head.weight"]
    write_bin(folder, tensors)
    model = load_lisa(folder).network.language_model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_the_layer_of_clip_is_read_from_config(tmp_path: Path) -> None:
    folder = copy_golden("v1", tmp_path, {"mm_vision_select_layer": -1})
    config = load_lisa(folder).network.config
    assert config.select_layer == -1
    assert golden("v1").loaded.network.config.select_layer == -2
