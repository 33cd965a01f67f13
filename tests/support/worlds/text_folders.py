"""Tiny random text encoders, saved like transformers saves them; no hub is needed."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

_WORDS = "the a red blue chair table bed lamp find where is left of on . ?".split()
LONGEST = 24


def sentence_folder(place: Path, seed: int = 0, width: int = 32) -> Path:
    """A BERT of two layers with a vocabulary of some words and all letters."""
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *letters]
    vocab = {name: id_ for id_, name in enumerate(dict.fromkeys(names))}
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=LONGEST,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(place)
    BertTokenizer(vocab=vocab).save_pretrained(place)
    return place


def clip_folder(place: Path, seed: int = 0, dim: int = 20) -> Path:
    """A CLIP text tower of two layers that reads letters."""
    names = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: id_ for id_, name in enumerate(names)}
    config = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        projection_dim=dim,
        max_position_embeddings=LONGEST,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPTextModelWithProjection(config).save_pretrained(place)
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(place)
    return place
