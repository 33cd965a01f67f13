"""Where LISA's weights and its vision tower come from, and where they can be put."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn

from models.lisa.checkpoint import load_lisa
from models.lisa.network import is_quantised, quantise
from tests.support.worlds.lisa_folders import copy_golden, refusal, same_weights
from tests.support.worlds.lisa_golden import golden


def test_places_that_are_no_folders_are_refused(tmp_path: Path) -> None:
    assert "found nothing" in refusal(tmp_path / "absent")
    assert "found nothing" in refusal(str(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    assert "a file" in refusal(tmp_path / "file")
    assert "found nothing" in refusal(golden("v1").checkpoint, vision_tower=tmp_path / "absent")


def test_the_hub_is_asked_for_what_is_not_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = copy_golden("v1", tmp_path, {"mm_vision_tower": "openai/clip"})
    asked: list[tuple[str, tuple[str, ...]]] = []

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, tuple(allow_patterns)))
        return str(folder if hub_id == "xinlai/LISA" else tmp_path / "clip-vit-tiny")

    monkeypatch.setattr("models.hub.hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = load_lisa("xinlai/LISA")
    assert same_weights(loaded.network, golden("v1").loaded.network)
    assert [hub_id for hub_id, _ in asked] == ["xinlai/LISA"] * 2 + ["openai/clip"] * 2
    # Weights in the older form are fetched only where there are none in the newer.
    assert ["*.safetensors" in patterns for _, patterns in asked] == [True, False] * 2
    assert all("*.json" in patterns and "*.model" in patterns for _, patterns in asked)


@pytest.mark.parametrize("error", [OSError("offline"), ValueError("bad id"), ConnectionError()])
def test_what_the_hub_does_not_give_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, tmp_path: Path
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("models.hub.hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    told = refusal("xinlai/LISA-7B-v1")
    assert told.startswith("xinlai/LISA-7B-v1: ")
    assert "fetch the files" in told
    folder = copy_golden("v1", tmp_path, {"mm_vision_tower": "openai/clip-vit-large-patch14"})
    assert "openai/clip-vit-large-patch14" in refusal(folder)
    named = copy_golden("v1", tmp_path / "other", {"mm_vision_tower": "gone"})
    assert "'gone'" in refusal(named)


def test_the_vision_tower_is_looked_for_in_the_checkpoint_first(tmp_path: Path) -> None:
    folder = copy_golden("v1", tmp_path)
    (tmp_path / "clip-vit-tiny").rename(folder / "clip-vit-tiny")
    assert same_weights(load_lisa(folder).network, golden("v1").loaded.network)
    (folder / "clip-vit-tiny").rename(tmp_path / "elsewhere")
    loaded = load_lisa(folder, vision_tower=str(tmp_path / "elsewhere"))
    assert same_weights(loaded.network, golden("v1").loaded.network)


def test_unknown_precisions_and_devices_are_refused() -> None:
    folder = golden("v1").checkpoint
    assert "float8" in refusal(folder, dtype="float8")
    for device in ("abacus", "cuda:77"):
        assert device in refusal(folder, device=device)


def test_few_bits_are_refused_without_bitsandbytes_or_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = golden("v1").checkpoint
    assert "3bit" in refusal(folder, quantize="3bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install bitsandbytes" in refusal(folder, quantize="4bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    assert "GPU" in refusal(folder, quantize="8bit")


class _Rounded(nn.Linear):
    """Stands for bitsandbytes' layers, which need a GPU."""

    def __init__(self, inputs: int, outputs: int, bias: bool, **_: Any) -> None:
        super().__init__(inputs, outputs, bias)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_only_the_blocks_of_the_language_model_are_rounded(
    monkeypatch: pytest.MonkeyPatch, bits: Any
) -> None:
    def parameter(data: Tensor, **_: Any) -> nn.Parameter:
        return nn.Parameter(data, requires_grad=False)

    layers = SimpleNamespace(
        Linear4bit=_Rounded, Linear8bitLt=_Rounded, Params4bit=parameter, Int8Params=parameter
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=layers))
    network = load_lisa(golden("v1").checkpoint).network
    quantise(network.language_model, bits, torch.bfloat16, torch.device("cpu"))
    rounded = {n for n, module in network.named_modules() if isinstance(module, _Rounded)}
    assert len(rounded) == 7 * network.config.llama.num_hidden_layers
    assert {f"{n}.weight" for n in rounded} == {n for n in network.state_dict() if is_quantised(n)}
    before = golden("v1").loaded.network.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.allclose(tensor.float(), before[name], atol=1e-4)
