"""What a sentence must be to be asked at all."""

from __future__ import annotations

from data.errors import UserError


def check_sentence(text: str) -> None:
    """Raise UserError for a sentence that nothing can be answered to."""
    if not text.strip():
        raise UserError("the query is empty: type a sentence, such as: where can I sit?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the query {text!r} is no Unicode text: type it anew") from error
