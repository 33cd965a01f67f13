"""Answers in words: what is left of a sentence, and how alike two answers are.

Exact match and token F1 are those of SQuAD (Rajpurkar et al., 2016): lower case, no punctuation,
no articles; F1 is over words with their counts, the best over all right answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

NOTHING = "none"
"""What is answered where nothing is found."""

_MARKERS = re.compile(r"\[SEG\]|<seg>|</?s>", re.I)
_LEAD = re.compile(r"^(?:sure|yes|certainly|of course|okay)\b[\s,.:;!]*", re.I)
_COPULA = re.compile(r"^(?:it is|it's|this is|that is|they are|these are|the answer is)\b\s*", re.I)
_ABSENT = re.compile(
    r"\b(?:not in (?:this|the) (?:view|image|picture|room)|there (?:is|are) no\b|not visible"
    r"|(?:cannot|can't|could not) (?:be seen|see)\b)",
    re.I,
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_EDGES = string.whitespace + string.punctuation


def said_phrase(text: str) -> str:
    """The answer in a teacher's sentence: "Sure, it is the red chair, [SEG]." is "the red chair".

    A sentence that says that the thing is not in view is ``NOTHING``. What is only a mask, such as
    "Sure, [SEG].", is "".
    """
    bare = _MARKERS.sub(" ", text)
    if _ABSENT.search(bare):
        return NOTHING
    bare = _LEAD.sub("", bare.strip(_EDGES))
    bare = _COPULA.sub("", bare.strip(_EDGES))
    return " ".join(bare.strip(_EDGES).split())


def words(text: str) -> list[str]:
    """The words that count."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def exact_match(answer: str, right: Sequence[str]) -> bool:
    """Whether an answer has the words of any right one, in their order."""
    return any(words(answer) == words(one) for one in right)


def token_f1(answer: str, right: Sequence[str]) -> float:
    """Largest F1 of words with any right answer; two answers without a word agree."""
    return max((_f1(words(answer), words(one)) for one in right), default=0.0)


def _f1(one: Sequence[str], other: Sequence[str]) -> float:
    if not one or not other:
        return float(not one and not other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))
