"""Golden runs of the public LISA code: checkpoints, images, questions and outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.lisa.checkpoint import LoadedLisa, load_lisa
from models.lisa.prompts import build_prompt
from models.lisa.teacher import LisaSettings, LisaTeacher, LisaView
from models.lisa.tokenizer import IMAGE_TOKEN_ID

FOLDER = Path(__file__).parents[2] / "golden" / "lisa"
NAMES = ("v1", "plus")
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Golden:
    """One golden run, read on demand."""

    name: str

    @property
    def checkpoint(self) -> Path:
        return FOLDER / self.name / "checkpoint"

    @cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((FOLDER / self.name / "golden.json").read_text("utf-8"))
        return facts

    @cached_property
    def tensors(self) -> dict[str, NDArray[Any]]:
        with np.load(FOLDER / self.name / "tensors.npz") as file:
            return dict(file)

    @cached_property
    def loaded(self) -> LoadedLisa:
        return load_lisa(self.checkpoint)

    @property
    def num_images(self) -> int:
        return len({sample["image_index"] for sample in self.facts["samples"]})

    def image(self, index: int) -> NDArray[np.uint8]:
        with Image.open(FOLDER / self.name / "images" / f"img{index}.png") as file:
            return np.asarray(file.convert("RGB"))

    def samples(self, image: int) -> dict[int, dict[str, Any]]:
        """Return the questions about an image, by number of the sample."""
        samples = enumerate(self.facts["samples"])
        return {number: sample for number, sample in samples if sample["image_index"] == image}

    def settings(self, **changed: Any) -> LisaSettings:
        facts = self.facts
        given: dict[str, Any] = {
            "conversation": facts["conv_type"],
            "use_start_end": facts["use_im_start_end"],
            "question_form": "raw",
            "max_new_tokens": facts["max_new_tokens"],
            "whole_answer": True,
        }
        return LisaSettings(**(given | changed))

    def teacher(self, loaded: LoadedLisa | None = None, **changed: Any) -> LisaTeacher:
        return LisaTeacher(loaded or self.loaded, self.settings(**changed), "lisa")

    @cache
    def view(self, image: int) -> LisaView:
        """Return an encoded image, the same one each time; no test may change it."""
        return self.teacher().encode_view(self.image(image), f"img{image}")

    def prompt_ids(self, question: str) -> list[int]:
        facts = self.facts
        prompt = build_prompt(question, facts["conv_type"], facts["use_im_start_end"])
        return self.loaded.tokenizer.encode(prompt)

    def suffix(self, question: str) -> list[int]:
        """Return the ids of the prompt after the image."""
        ids = self.prompt_ids(question)
        return ids[ids.index(IMAGE_TOKEN_ID) + 1 :]

    def array(self, sample: int, what: str) -> NDArray[Any]:
        return self.tensors[f"sample{sample}__{what}"]


@cache
def golden(name: str) -> Golden:
    return Golden(name)


def far(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two arrays; infinite for different shapes."""
    left, right = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(left - right).max(initial=0)) if left.shape == right.shape else np.inf
