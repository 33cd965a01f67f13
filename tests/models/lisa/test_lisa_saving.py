"""LISA networks written as checkpoint folders and read back, by us and by transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig
from transformers.models.sam.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from models.lisa import key_names
from models.lisa.checkpoint import load_lisa, save_lisa
from models.lisa.images import ClipTransform
from models.lisa.network import LisaConfig, LisaNetwork
from tests.support.worlds.lisa_folders import (
    copy_golden,
    golden_tensors,
    same_weights,
    tokenizer_files,
)
from tests.support.worlds.lisa_golden import NAMES, golden


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_loads_bit_for_bit(name: str, tmp_path: Path) -> None:
    loaded = golden(name).loaded
    save_lisa(tmp_path, loaded.network, tokenizer_files(name), loaded.clip_transform, torch.float32)
    again = load_lisa(tmp_path)
    assert same_weights(again.network, loaded.network)
    assert again.clip_transform == loaded.clip_transform
    assert again.tokenizer.added == loaded.tokenizer.added
    published = {key for key in golden_tensors(name) if not key_names.is_ignored(key)}
    assert set(load_file(tmp_path / "model.safetensors")) == published
    assert not list(tmp_path.rglob("*.part"))


def test_half_precision_files_load_in_full(tmp_path: Path) -> None:
    run = golden("v1")
    save_lisa(tmp_path, run.loaded.network, tokenizer_files("v1"), run.loaded.clip_transform)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    again = load_lisa(tmp_path)
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, run.loaded.network.state_dict()[name].half().float())
    view = run.teacher(again).encode_view(run.image(0), "img0")
    samples = run.samples(0).values()
    answers = run.teacher(again).answers_in_full(view, [s["question"] for s in samples])
    assert [answer.text for answer in answers] == [sample["answer"] for sample in samples]


def test_saving_over_the_folder_that_is_mapped_does_no_harm(tmp_path: Path) -> None:
    folder = copy_golden("v1", tmp_path)
    network = golden("v1").loaded.network
    for _ in range(2):
        mapped = load_lisa(folder)
        save_lisa(
            folder, mapped.network, tokenizer_files("v1"), mapped.clip_transform, torch.float32
        )
        assert same_weights(mapped.network, network)
    assert same_weights(load_lisa(folder).network, network)


def test_transformers_reads_the_vision_tower_we_write(tmp_path: Path) -> None:
    loaded = golden("v1").loaded
    save_lisa(tmp_path, loaded.network, [], loaded.clip_transform, torch.float32)
    tower = CLIPVisionModel.from_pretrained(tmp_path / "vision_tower").state_dict()
    ours = loaded.network.vision_tower.state_dict()
    assert tower.keys() == ours.keys()
    assert all(torch.equal(tower[key], ours[key]) for key in ours)


def test_a_vision_tower_that_transformers_writes_is_read(tmp_path: Path) -> None:
    loaded = golden("v1").loaded
    loaded.network.vision_tower.save_pretrained(tmp_path / "tower")
    (tmp_path / "tower" / "preprocessor_config.json").unlink(missing_ok=True)
    again = load_lisa(golden("v1").checkpoint, vision_tower=tmp_path / "tower")
    assert same_weights(again.network, loaded.network)


def test_a_network_without_relative_positions_round_trips(tmp_path: Path) -> None:
    # Its heads, windows and the layer of CLIP are in no shape, so config.json must say them.
    vision = SamVisionConfig(
        hidden_size=24,
        output_channels=16,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=64,
        patch_size=8,
        mlp_ratio=3.0,
        use_rel_pos=False,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=8,
        initializer_range=0.02,
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=20, num_attention_heads=4, iou_head_hidden_dim=12
    )
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8)
    sizes = LisaConfig(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            hidden_act="gelu",
        ),
        LlamaConfig(
            vocab_size=516,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
        SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder),
        select_layer=-1,
        projector_layers=2,
    )
    torch.manual_seed(0)
    network = LisaNetwork(sizes).eval()
    transform = ClipTransform(resize_to=(32, 32), crop=None)
    save_lisa(tmp_path, network, tokenizer_files("v1"), transform, torch.float32)
    again = load_lisa(tmp_path)
    assert same_weights(again.network, network)
    assert again.clip_transform == transform
    with torch.inference_mode():
        clip, sam = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 64, 64)
        ids = torch.arange(9)[None]
        for ours, theirs in (
            (again.network.image_tokens(clip), network.image_tokens(clip)),
            (again.network.sam_embedding(sam), network.sam_embedding(sam)),
            (again.network.language_model(ids).logits, network.language_model(ids).logits),
            (
                again.network.decode_masks(torch.ones(1, 16, 8, 8), torch.ones(1, 2, 16))[0],
                network.decode_masks(torch.ones(1, 16, 8, 8), torch.ones(1, 2, 16))[0],
            ),
        ):
            assert torch.allclose(ours, theirs, atol=1e-4)
