"""LISA's tokenizer: sentencepiece with the rules of the slow Llama tokenizer for added tokens.

LISA was trained and published with the slow tokenizer of transformers 4.31. Later versions give
other ids for its prompts, which change its masks by more than one logit. So the rules are
implemented here:

- an added token (``[SEG]``, ``<im_start>``, ...) removes all whitespace on both sides; ``<s>``,
  ``</s>`` and ``<unk>`` are recognised in a text but remove none;
- each stretch of text between them is encoded separately and begins with a word boundary; with
  ``legacy`` false only the first stretch does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sentencepiece import SentencePieceProcessor

from data.errors import DataError
from data.jsonio import is_int, read_json
from models.lisa.prompts import IMAGE_MARKER, SEG_MARKER

IMAGE_TOKEN_ID = -200

_WORD_BOUNDARY = "\u2581"
_CLOSING = (*".,;:!?)\u2026", "'s", "\u2019s")
_REMEDY = "Fetch the checkpoint folder again, whole."

Span = tuple[int, int]


class LisaTokenizer:
    """Encodes text as ids and decodes ids as text.

    Attributes:
        seg_id: id of ``[SEG]``; it differs between checkpoints.
        bos_id, eos_id: begin and end of a sequence, 1 and 2 in all published checkpoints.
        pad_id: padding, the id of the unknown token, 0.
        added: ids of the added tokens, ``[SEG]`` included.
        legacy: whether text after an added token begins with a word boundary.
    """

    def __init__(
        self, pieces: SentencePieceProcessor, added: Mapping[str, int], legacy: bool
    ) -> None:
        self.added: Mapping[str, int] = MappingProxyType(dict(added))
        self.legacy = legacy
        self.seg_id = self.added[SEG_MARKER]
        self.bos_id: int = pieces.bos_id()
        self.eos_id: int = pieces.eos_id()
        self.pad_id: int = pieces.unk_id()
        self._pieces = pieces
        controls = (self.bos_id, self.eos_id, self.pad_id)
        self._whole = {pieces.id_to_piece(id_): id_ for id_ in controls} | dict(self.added)
        self._name = {id_: name for name, id_ in self.added.items()} | {
            IMAGE_TOKEN_ID: IMAGE_MARKER
        }
        longest_first = sorted(self._whole, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @classmethod
    def from_folder(cls, folder: Path) -> LisaTokenizer:
        """Read the tokenizer of a checkpoint folder.

        Reads ``tokenizer.model``, ``added_tokens.json`` and the key "legacy" of
        ``tokenizer_config.json``, which is true if the file or the key is missing.

        Raises:
            DataError: a file is missing or damaged, or ``[SEG]`` is no added token.
        """
        pieces = _read_pieces(folder / "tokenizer.model")
        added = _read_added(folder / "added_tokens.json", len(pieces))
        return cls(pieces, added, _read_legacy(folder / "tokenizer_config.json"))

    def encode(self, prompt: str) -> list[int]:
        """Encode a prompt: one bos, then text, with IMAGE_TOKEN_ID for each ``<image>``.

        The texts before and after an image are encoded separately.
        """
        first, *others = prompt.split(IMAGE_MARKER)
        ids = self.encode_part(first, bos=True)
        for part in others:
            ids += [IMAGE_TOKEN_ID, *self.encode_part(part, bos=False)]
        return ids

    def encode_part(self, text: str, bos: bool) -> list[int]:
        """Encode a text without image, after a bos if ``bos``; lone surrogates become "?"."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not self.legacy:
            text = _WORD_BOUNDARY + text.replace(_WORD_BOUNDARY, " ")
        ids = [self.bos_id] if bos else []
        for part in _eat_whitespace(self._cut.split(text), self.added):
            ids += [self._whole[part]] if part in self._whole else self._encode_words(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ``ids`` as readable text; see ``spans``."""
        return self.spans(ids)[0]

    def spans(self, ids: Sequence[int]) -> tuple[str, list[Span]]:
        """Decode ``ids`` as text, with the position [start, end) of each ``[SEG]`` in it.

        ``<s>``, ``</s>``, padding and unknown ids are omitted. The ids hold no whitespace beside
        added tokens, so one space is put on each side, but none before closing punctuation, after
        an opening parenthesis or at the ends of the text.
        """
        text = ""
        seg_spans: list[Span] = []
        after_added = False
        for name, run in self._runs(ids):
            if name is None:
                words: str = self._pieces.decode(run)
                if after_added or not text:
                    words = words.lstrip(" ")
                if after_added and words and not words[0].isspace():
                    text += "" if words.startswith(_CLOSING) else " "
                text += words
            else:
                text = text.rstrip(" ")
                text += "" if not text or text.endswith("(") or text[-1].isspace() else " "
                if name == SEG_MARKER:
                    seg_spans.append((len(text), len(text) + len(name)))
                text += name
            after_added = name is not None
        return text.rstrip(" "), seg_spans

    def _runs(self, ids: Sequence[int]) -> Iterator[tuple[str | None, list[int]]]:
        """Yield (name, []) for each added token and (None, ids) for the words between them."""
        run: list[int] = []
        for id_ in map(int, ids):
            if id_ in self._name:
                if run:
                    yield None, run
                    run = []
                yield self._name[id_], []
            elif 0 <= id_ < len(self._pieces) and id_ not in self._whole.values():
                run.append(id_)
        if run:
            yield None, run

    def _encode_words(self, text: str) -> list[int]:
        """Encode a text without special tokens."""
        is_first = not self.legacy and text.startswith(_WORD_BOUNDARY)
        if is_first:
            text = text[len(_WORD_BOUNDARY) :]
        tokens: list[str] = self._pieces.encode(text, out_type=str)
        if not (self.legacy or is_first or text.startswith(" ")) and tokens:
            # sentencepiece begins every text with a boundary, which is wrong inside a sentence.
            # The rest of the first piece may be no piece; 4.31 encodes it as unknown.
            rest = tokens[0].removeprefix(_WORD_BOUNDARY)
            tokens[:1] = [rest] if rest else []
        return [self._pieces.piece_to_id(token) for token in tokens]


def _eat_whitespace(parts: Sequence[str], added: Mapping[str, int]) -> list[str]:
    """Strip the parts of a text where they touch an added token; omit empty parts."""
    stripped = list(parts)
    for index, part in enumerate(parts):
        if part in added:
            # re.split puts a text, possibly empty, on both sides of every token.
            stripped[index - 1] = stripped[index - 1].rstrip()
            stripped[index + 1] = stripped[index + 1].lstrip()
    return [part for part in stripped if part]


def _read_pieces(path: Path) -> SentencePieceProcessor:
    expected = "the sentencepiece model of the checkpoint"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(path, expected, "no such file", _REMEDY) from None
    except OSError as error:
        raise DataError(path, expected, str(error), _REMEDY) from error
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(content)
    except (RuntimeError, OSError, ValueError) as error:
        found = f"{len(content)} bytes of another format ({error})"
        raise DataError(path, expected, found, _REMEDY) from error
    if min(pieces.bos_id(), pieces.eos_id(), pieces.unk_id()) < 0:
        found = "a model without <s>, </s> or <unk>"
        raise DataError(path, "a sentencepiece model with <s>, </s> and <unk>", found, _REMEDY)
    return pieces


def _read_added(path: Path, num_pieces: int) -> dict[str, int]:
    expected = f"a JSON object of added tokens ([SEG] among them) to ids from {num_pieces} on"
    content = read_json(path, expected, _REMEDY)
    if not isinstance(content, dict):
        raise DataError(path, expected, f"a {type(content).__name__}", _REMEDY)
    for token, id_ in content.items():
        if not token.strip() or not is_int(id_) or id_ < num_pieces:
            raise DataError(path, expected, f"{token!r}: {id_!r}", _REMEDY)
    if len(set(content.values())) < len(content):
        raise DataError(path, expected, f"one id for two tokens in {content}", _REMEDY)
    if SEG_MARKER not in content:
        remedy = "Give a checkpoint of LISA or LISA++; a LLaVA checkpoint has no [SEG]."
        raise DataError(path, expected, f"only {sorted(content)}", remedy)
    return content


def _read_legacy(path: Path) -> bool:
    if not path.exists():
        return True
    expected = 'a JSON object whose key "legacy", if there, is true or false'
    content = read_json(path, expected, _REMEDY)
    legacy = content.get("legacy") if isinstance(content, dict) else content
    if legacy is None and isinstance(content, dict):
        return True
    if not isinstance(legacy, bool) or not isinstance(content, dict):
        raise DataError(path, expected, repr(legacy)[:80], _REMEDY)
    return legacy
