"""The language model in 8 or 4 bits, through bitsandbytes, which is an extra."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlamaForCausalLM

from data.errors import UserError

Bits = Literal["8bit", "4bit"]


def require_bitsandbytes(bits: Bits, device: torch.device) -> None:
    """Raise UserError unless weights can be quantised on ``device``."""
    if bits not in ("8bit", "4bit"):
        raise UserError(f"quantize must be 8bit or 4bit, not {bits!r}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{bits} weights need the package bitsandbytes, which is not installed: "
            "pip install bitsandbytes, or choose the dtype bfloat16, float16 or float32"
        )
    if device.type != "cuda" or not torch.cuda.is_available():
        raise UserError(
            f"{bits} weights need a CUDA GPU, and the device is {device}"
            f"{'' if torch.cuda.is_available() else ' (no GPU is visible)'}: "
            "choose another device, or the dtype bfloat16, float16 or float32"
        )


def is_quantised(name: str) -> bool:
    """Whether the weight of this name in ``LisaNetwork`` will be held in few bits.

    As transformers does, the output layer keeps its precision.
    """
    return name.startswith("language_model.model.layers.") and name.endswith("proj.weight")


def quantise(model: LlamaForCausalLM, bits: Bits, dtype: torch.dtype, device: torch.device) -> None:
    """Replace the linear layers of all blocks, one after the other, by ones in few bits.

    Weights may still be memory mapped; each is read, rounded and moved to ``device`` alone.
    """
    bnb = importlib.import_module("bitsandbytes")
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, _few_bits(bnb, linear, bits, dtype).to(device))


def _few_bits(bnb: Any, linear: nn.Linear, bits: Bits, dtype: torch.dtype) -> nn.Module:
    """The layer with weights that are rounded when it moves to the GPU."""
    sizes = (linear.in_features, linear.out_features)
    layer: nn.Module
    if bits == "4bit":
        layer = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4")
        weight = linear.weight.data.to(dtype)
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        layer = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
        weight = linear.weight.data.to(torch.float16)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return layer
