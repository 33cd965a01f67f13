"""LISA asked without looking: what its language model makes of a text behind a *mean image*.

A language model that was trained behind images decodes garbage without one. Behind the mean of
a few pictures' tokens it names nearly everything as it would behind a real picture, and its
[SEG] state becomes a vector of the text alone: no picture of the asked scene takes part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.lisa.answering import Decoded, decode
from models.lisa.checkpoint import LoadedLisa
from models.lisa.masks import seg_embeddings
from models.lisa.prefix import read_prefix
from models.lisa.questions import LisaSettings, Questions, split_at_image


class LisaWords:
    """A loaded LISA as an encoder of texts.

    Raises UserError for settings that the checkpoint cannot serve.
    """

    def __init__(self, loaded: LoadedLisa, settings: LisaSettings) -> None:
        self._network, self._transform = loaded.network, loaded.clip_transform
        self._device = loaded.device
        self._questions = Questions(loaded.tokenizer, settings)

    @property
    def dim(self) -> int:
        """Length D of an encoded text: that of a [SEG] embedding."""
        return self._network.config.embedding_dim

    @torch.inference_mode()
    def image_tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """(T, C) float32 on the CPU: one picture as the language model gets it.

        ``image`` (H, W, 3) uint8 RGB.
        """
        pixels = self._transform(image)[None].to(self._device)
        return self._network.image_tokens(pixels)[0].float().cpu()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], mean_tokens: Tensor) -> NDArray[np.float32]:
        """(n, D) float32 [SEG] embeddings of ``texts``, each answered behind ``mean_tokens``.

        Where an answer holds no [SEG], the state at which [SEG] was likeliest takes its place.
        ``mean_tokens`` (T, C), the mean of ``image_tokens`` over some pictures.

        Raises:
            UserError: a text is longer than the model can read.
            ValueError: ``mean_tokens`` are of another width than the language model.
        """
        hidden = self._network.config.llama.hidden_size
        if mean_tokens.ndim != 2 or mean_tokens.shape[1] != hidden:
            raise ValueError(f"mean_tokens must be (T, {hidden}), got {tuple(mean_tokens.shape)}")
        model, questions = self._network.language_model, self._questions
        prefix = read_prefix(model, questions.prefix_ids, mean_tokens[None].to(self._device))
        distinct = list(dict.fromkeys(texts))
        suffixes = [split_at_image(questions.prompt_ids(text))[1] for text in distinct]
        decoded = decode(
            model, [prefix] * len(suffixes), suffixes, questions.stop(at_first_seg=True)
        )
        embeddings = seg_embeddings(self._network, [_asking_state(one) for one in decoded])
        rows = {text: row for row, text in enumerate(distinct)}
        return embeddings.float().cpu().numpy()[[rows[text] for text in texts]]


def _asking_state(decoded: Decoded) -> Tensor:
    """(hidden,): the state that said [SEG], else the one that came nearest to it."""
    state = decoded.seg_states[0] if decoded.seg_states else decoded.nearest
    if state is None:
        raise ValueError("an answer without a single token")
    return state
