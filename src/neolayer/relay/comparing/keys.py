r"""Keys that are no text: others may write into a store what PostgreSQL could not hold.

Each byte that is not UTF-8 stands in a key as a lone surrogate, as Python's `surrogateescape` has
it, so that no two keys become one; people read `\xff` for it.
"""

from __future__ import annotations


def text_of(value: bytes) -> str:
    """A part of a key, of the bytes that a store has."""
    return value.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes that a store has, of a part of a key."""
    return text.encode(errors="surrogateescape")


def is_utf8(text: str) -> bool:
    """Whether a part of a key is text, and not only bytes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def told(text: str) -> str:
    """What people read of a part of a key."""
    return text if is_utf8(text) else bytes_of(text).decode(errors="backslashreplace")
