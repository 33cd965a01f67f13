"""Writes a LISA network as a checkpoint folder in the published layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.lisa import key_names
from models.lisa.images import ClipTransform
from models.lisa.network import LisaConfig, LisaNetwork
from models.lisa.sizes import extra_sizes

TOWER_FOLDER = "vision_tower"


def save_lisa(
    folder: Path,
    network: LisaNetwork,
    tokenizer_files: Iterable[Path],
    clip_transform: ClipTransform,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a folder that ``load_lisa`` reads, with the published keys.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        network: on any device, in any precision.
        tokenizer_files: ``tokenizer.model``, ``added_tokens.json`` and
            ``tokenizer_config.json``; copied.
        clip_transform: becomes ``preprocessor_config.json`` of the vision tower's folder.
        dtype: of all tensors in the files.
    """
    tower = folder / TOWER_FOLDER
    tower.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    ours = {key_names.to_published(n): t for n, t in state.items() if not key_names.is_tower(n)}
    towers = {key_names.tower_to_published(n): t for n, t in state.items() if key_names.is_tower(n)}
    for place, tensors in ((folder, ours), (tower, towers)):
        _replace(place / "model.safetensors", lambda path: _save_tensors(path, tensors, dtype))
    for source in tokenizer_files:
        _replace(folder / source.name, lambda path: shutil.copyfile(source, path))
    _write_json(tower / "preprocessor_config.json", _preprocessor(clip_transform))
    _write_json(tower / "config.json", network.config.clip.to_dict())
    # Last: without it the folder is no checkpoint.
    _write_json(folder / "config.json", _config(network.config, dtype))


def _config(config: LisaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """``config.json`` with the published keys, and what they leave out under "sam"."""
    llama = config.llama
    return {
        "architectures": ["LISAForCausalLM"],
        "model_type": "llava",
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.hidden_size,
        "intermediate_size": llama.intermediate_size,
        "num_hidden_layers": llama.num_hidden_layers,
        "num_attention_heads": llama.num_attention_heads,
        "num_key_value_heads": llama.num_key_value_heads,
        "head_dim": llama.head_dim,
        "hidden_act": llama.hidden_act,
        "rms_norm_eps": llama.rms_norm_eps,
        "max_position_embeddings": llama.max_position_embeddings,
        "rope_parameters": llama.rope_parameters,
        "bos_token_id": llama.bos_token_id,
        "eos_token_id": llama.eos_token_id,
        "pad_token_id": llama.pad_token_id,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "mm_hidden_size": config.clip.hidden_size,
        "mm_projector_type": "linear" if config.projector_layers == 1 else "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.select_layer,
        "mm_vision_tower": TOWER_FOLDER,
        "out_dim": config.embedding_dim,
        "sam": extra_sizes(config),
    }


def _preprocessor(transform: ClipTransform) -> dict[str, Any]:
    """``preprocessor_config.json`` as transformers writes it."""
    size, crop = transform.resize_to, transform.crop
    sides: dict[str, int | None] = {"shortest_edge": size if isinstance(size, int) else None}
    if isinstance(size, tuple):
        sides = {"height": size[0], "width": size[1]}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": size is not None,
        "size": sides,
        "resample": transform.resample,
        "do_center_crop": crop is not None,
        "crop_size": {"height": crop, "width": crop},
        "do_rescale": True,
        "rescale_factor": transform.rescale,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    # A copy of each, for safetensors refuses weights that share memory.
    copies = {k: t.detach().to("cpu", dtype, copy=True).contiguous() for k, t in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    _replace(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write aside, then rename: a file that is memory mapped must not change under its reader."""
    aside = path.with_name(f".{path.name}.part")
    write(aside)
    os.replace(aside, path)
