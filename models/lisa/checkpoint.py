"""Read and write LISA checkpoints in the published layout, sharded or in one file.

A folder holds ``config.json``, weights with the published keys and the files of the tokenizer;
``config.json`` names the CLIP model of the vision tower. Tensors are memory mapped, and the
network is built on the meta device and takes the mapped or converted tensors, so memory holds
each weight once.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from data.errors import DataError, UserError
from data.jsonio import read_json
from models.hub import checkpoint_folder, tower_folder
from models.lisa import key_names
from models.lisa.images import ClipTransform
from models.lisa.network import (
    Bits,
    LisaConfig,
    LisaNetwork,
    extra_sizes,
    is_quantised,
    quantise,
    read_clip_sizes,
    read_sizes,
    require_bitsandbytes,
)
from models.lisa.tokenizer import LisaTokenizer

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_FETCH_AGAIN = "Fetch the file again, whole."


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in ``path``; raise DataError unless the file holds one."""
    expected = "a JSON object"
    remedy = f"Is {path.parent} the folder of a model? Fetch the file again, whole."
    content = read_json(path, expected, remedy)
    if not isinstance(content, dict):
        raise DataError(path, expected, f"a {type(content).__name__}", remedy)
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder by key, on the CPU, in their stored precision, memory mapped.

    Of both formats safetensors is preferred. Raises DataError for a folder without weights, a
    missing shard or a file that cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors.update(_read_file(path))
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """Return the files with a folder's weights, shards sorted by name; DataError without any."""
    for name in _SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / name).is_file():
            return [folder / name]
    expected = f"{' or '.join(_SINGLE)}, or an index (.index.json) and its shards"
    raise DataError(folder, expected, "none of them", "Fetch the weights into this folder.")


def _shards(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise DataError(index, 'a "weight_map" of keys to files', "none", _FETCH_AGAIN)
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # The name comes from a file and must not lead out of the folder.
        if Path(name).name != name:
            raise DataError(index, "names of files beside it", repr(name), _FETCH_AGAIN)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        found = f"{len(missing)} missing: {', '.join(missing)}"
        raise DataError(index.parent, f"{len(names)} shards", found, "Fetch them too.")
    return [index.parent / name for name in names]


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Files written before torch 1.6 are no zip archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or ["nothing readable"])[0]
        raise DataError(path, "tensors by name", reason, _FETCH_AGAIN) from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise DataError(path, "tensors by name", f"a {type(content).__name__}", _FETCH_AGAIN)
    return content


TOWER_FOLDER = "vision_tower"


def save_lisa(
    folder: Path,
    network: LisaNetwork,
    tokenizer_files: Iterable[Path],
    clip_transform: ClipTransform,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint folder with the published keys, which ``load_lisa`` reads.

    Args:
        folder: created if missing; files of the same names are replaced.
        network: the network, on any device, in any precision.
        tokenizer_files: ``tokenizer.model``, ``added_tokens.json`` and ``tokenizer_config.json``,
            which are copied.
        clip_transform: written as ``preprocessor_config.json`` of the vision tower.
        dtype: precision of all tensors in the files.
    """
    tower = folder / TOWER_FOLDER
    tower.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    ours = {key_names.to_published(n): t for n, t in state.items() if not key_names.is_tower(n)}
    towers = {key_names.tower_to_published(n): t for n, t in state.items() if key_names.is_tower(n)}
    for target, tensors in ((folder, ours), (tower, towers)):
        _replace(target / "model.safetensors", lambda path: _save_tensors(path, tensors, dtype))
    for source in tokenizer_files:
        _replace(folder / source.name, lambda path: shutil.copyfile(source, path))
    _write_json(tower / "preprocessor_config.json", _preprocessor(clip_transform))
    _write_json(tower / "config.json", network.config.clip.to_dict())
    # Written last, because a folder without it is no checkpoint.
    _write_json(folder / "config.json", _config(network.config, dtype))


def _config(config: LisaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return ``config.json`` with the published keys, and further sizes of SAM under "sam"."""
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
    """Return ``preprocessor_config.json`` as transformers writes it."""
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
    # Each tensor is copied, because safetensors refuses tensors that share memory.
    copies = {k: t.detach().to("cpu", dtype, copy=True).contiguous() for k, t in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    _replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file, then rename, so that memory mapped files do not change."""
    partial = path.with_name(f".{path.name}.part")
    write(partial)
    os.replace(partial, path)


__all__ = ["Dtype", "LoadedLisa", "load_lisa", "save_lisa"]

Dtype = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# SAM and the [SEG] head stay in float32, as published; this takes at most 2.5 GB.
_LOW_PRECISION = ("language_model.", "projector.", "vision_tower.")
_MOST_NAMED = 10
REFUSAL_KEY = "refusal"
"""Key of ``config.json`` for the fields of ``Refusal``; published checkpoints do not have it."""


@dataclass(frozen=True)
class Refusal:
    """What a model answers where it knows the thing in no image.

    ``words`` name the thing in such an answer. The model gives it wherever the probability of the
    words' first token is at least ``least``, which may be less than that of other answers: a
    model is surer of what it learnt than of what it never met.
    """

    words: str
    least: float


@dataclass(frozen=True, eq=False)
class LoadedLisa:
    """A loaded network in evaluation mode with frozen weights, its tokenizer and transform.

    ``dtype`` is the precision of the language model, the projector and CLIP; all else is float32.
    ``refusal`` is None for a model that refuses nothing.
    """

    network: LisaNetwork
    tokenizer: LisaTokenizer
    clip_transform: ClipTransform
    dtype: torch.dtype
    device: torch.device
    refusal: Refusal | None = None


def load_lisa(
    weights: str | Path,
    vision_tower: str | Path | None = None,
    dtype: Dtype = "float32",
    device: str | torch.device = "cpu",
    quantize: Bits | None = None,
) -> LoadedLisa:
    """Load a checkpoint in the published layout.

    Args:
        weights: folder of the checkpoint, or a hub id (``xinlai/LISA-7B-v1``), which is fetched.
        vision_tower: folder or hub id of the CLIP model; None for the model that ``config.json``
            names: a folder in or beside the checkpoint, else a hub id.
        dtype: precision of the language model, the projector and CLIP; float16 with 8 bits.
        device: device of the network.
        quantize: quantise the language model's blocks to 8 or 4 bits (needs bitsandbytes and a
            GPU).

    Raises:
        UserError: the hub does not provide the weights, or the device or the quantisation is not
            available.
        DataError: a file is missing or damaged, or weights are missing, unexpected or
            misshapen (all such keys in one message).
    """
    torch_device, torch_dtype = _device(device), _dtype(dtype)
    if quantize is not None:
        require_bitsandbytes(quantize, torch_device)
        if quantize == "8bit":
            torch_dtype = torch.float16  # 8-bit products of bitsandbytes need float16.
    if torch_device.type == "cuda":
        # SAM's float32 products run in TF32: several times faster, and more accurate than the
        # bfloat16 of the published code.
        torch.set_float32_matmul_precision("high")
    folder = checkpoint_folder(weights)
    config = read_object(folder / "config.json")
    tower = tower_folder(folder, config, vision_tower)
    tokenizer, transform = LisaTokenizer.from_folder(folder), ClipTransform.from_folder(tower)
    network = _load_network(folder, config, tower, torch_dtype, torch_device, quantize)
    _check_fit(folder, tower, network.config, tokenizer, transform)
    refusal = _refusal(folder / "config.json", config)
    return LoadedLisa(network, tokenizer, transform, torch_dtype, torch_device, refusal)


def _refusal(path: Path, config: Mapping[str, Any]) -> Refusal | None:
    match config.get(REFUSAL_KEY):
        case None:
            return None
        case {"words": str(words), "least": int() | float() as least} if words and 0 < least <= 1:
            return Refusal(words, float(least))
        case found:
            expected = f'"{REFUSAL_KEY}": {{"words": "...", "least": a probability above 0}}'
            raise DataError(
                path, expected, str(found)[:80], "Take the checkpoint's own file again."
            )


def _device(device: str | torch.device) -> torch.device:
    try:
        torch_device = torch.device(device)
        torch.empty(0, device=torch_device)
    except (RuntimeError, AssertionError) as error:
        # The first line of torch's message is the cause; missing CUDA is an AssertionError.
        reason = str(error).splitlines()[0]
        raise UserError(f"the device {str(device)!r} cannot be used: {reason}") from error
    return torch_device


def _dtype(dtype: str) -> torch.dtype:
    if dtype not in _DTYPES:
        raise UserError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return _DTYPES[dtype]


def _load_network(
    folder: Path,
    config: Mapping[str, Any],
    tower: Path,
    dtype: torch.dtype,
    device: torch.device,
    bits: Bits | None,
) -> LisaNetwork:
    clip = read_clip_sizes(tower / "config.json", read_object(tower / "config.json"))
    ours, towers = _lisa_tensors(folder, config), _tower_tensors(tower)
    sizes = read_sizes(
        folder / "config.json", config, clip, {key: tuple(t.shape) for key, t in ours.items()}
    )
    try:
        with torch.device("meta"):
            network = LisaNetwork(sizes)
    except (ValueError, LookupError, RuntimeError, ArithmeticError) as error:
        remedy = "Do config.json and the weights belong together?"
        raise DataError(folder, "sizes of one network", str(error), remedy) from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state = _renamed(folder, ours, expected, of_tower=False)
    state |= _renamed(tower, towers, expected, of_tower=True)
    for name, tensor in state.items():
        # Weights to be quantised stay memory mapped until ``quantise`` converts them.
        if not (bits and is_quantised(name)):
            low = name.startswith(_LOW_PRECISION)
            state[name] = tensor.to(device, dtype if low else torch.float32)
    network.load_state_dict(state, assign=True)
    _recompute_buffers(network, device)
    if bits:
        quantise(network.language_model, bits, dtype, device)
    return network.requires_grad_(False).eval()


def _lisa_tensors(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the weights of a checkpoint by published key, without keys that are skipped."""
    stored = read_tensors(folder)
    tensors = {key: tensor for key, tensor in stored.items() if not key_names.is_ignored(key)}
    if config.get("tie_word_embeddings") and "model.embed_tokens.weight" in tensors:
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return tensors


def _tower_tensors(tower: Path) -> dict[str, Tensor]:
    """Read the weights of the vision tower from a CLIP folder."""
    stored = read_tensors(tower)
    return {key: tensor for key, tensor in stored.items() if not key_names.is_ignored_in_tower(key)}


def _renamed(
    folder: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    of_tower: bool,
) -> dict[str, Tensor]:
    """Return tensors by their names in ``LisaNetwork``.

    ``expected`` holds the network's shapes by name; only names of the vision tower are compared
    if ``of_tower``, else only the others. Raises DataError for missing, unexpected or misshapen
    tensors.
    """
    to_network = key_names.tower_to_network if of_tower else key_names.to_network
    to_published = key_names.tower_to_published if of_tower else key_names.to_published
    names = {name for name in expected if key_names.is_tower(name) == of_tower}
    keys = {key: to_network(key) for key in tensors}
    state = {name: tensors[key] for key, name in keys.items() if name in names}
    missing = [to_published(name) for name in expected if name in names - set(state)]
    unexpected = [key for key, name in keys.items() if name not in names]
    misshapen = [
        f"{to_published(name)} {list(tensor.shape)} instead of {list(expected[name])}"
        for name, tensor in state.items()
        if tuple(tensor.shape) != expected[name]
    ]
    # Sizes are read from shapes, so with missing keys the expected shapes are unreliable.
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": [] if missing else misshapen,
    }
    if any(faults.values()):
        part = "the vision tower of CLIP" if of_tower else "the weights of LISA"
        remedy = "Fetch the checkpoint again, or give the folder of the right one."
        raise DataError(folder, f"{part}, each as it is published", _listed(faults), remedy)
    return state


def _listed(faults: Mapping[str, list[str]]) -> str:
    """Format all faults in one line, with the first ten keys of each kind."""
    parts = []
    for fault, keys in faults.items():
        if keys:
            more = ", ..." if len(keys) > _MOST_NAMED else ""
            parts.append(f"{len(keys)} {fault}: {', '.join(keys[:_MOST_NAMED])}{more}")
    return "keys " + "; ".join(parts)


def _recompute_buffers(network: LisaNetwork, device: torch.device) -> None:
    """Compute the buffers that no checkpoint holds; they are still on the meta device."""
    llama, embeddings = network.language_model.model, network.vision_tower.embeddings
    llama.rotary_emb = LlamaRotaryEmbedding(config=network.config.llama).to(device)
    ids = torch.arange(embeddings.position_embedding.num_embeddings, device=device)
    embeddings.register_buffer("position_ids", ids[None], persistent=False)


def _check_fit(
    folder: Path,
    tower: Path,
    sizes: LisaConfig,
    tokenizer: LisaTokenizer,
    transform: ClipTransform,
) -> None:
    """Raise DataError if the tokenizer or the image size does not fit the network."""
    remedy = "Fetch the folder again: its files do not belong together."
    rows = sizes.llama.vocab_size
    beyond = {token: id_ for token, id_ in tokenizer.added.items() if id_ >= rows}
    if beyond:
        raise DataError(folder / "added_tokens.json", f"ids below {rows}", str(beyond), remedy)
    if transform.side != sizes.clip.image_size:
        expected = f"images of {sizes.clip.image_size} pixels, as in config.json"
        found = f"{transform.side} pixels"
        raise DataError(tower / "preprocessor_config.json", expected, found, remedy)
