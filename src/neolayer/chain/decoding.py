"""Decoding JSON that others wrote: whatever is wrong with it is one kind of error.

A decoder also fails on what it passes over: bytes that are no UTF-8, and values nested so deeply
that no stack holds them. Neither is an error of its own kind to those who read blocks.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class TooDeep(msgspec.DecodeError):
    """Nested too deeply to be read."""


class Decoder(Generic[T]):
    """msgspec's decoder of one type, for foreign bytes."""

    def __init__(self, kind: type[T]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def decode(self, content: bytes | msgspec.Raw) -> T:
        """The value. Raises msgspec.DecodeError: ValidationError where it is JSON of another shape,
        TooDeep where it is nested without end."""
        try:
            return self._decode(content)
        except RecursionError:
            raise TooDeep("nested too deeply to be read") from None
        except UnicodeDecodeError as exc:
            raise msgspec.DecodeError(str(exc)) from exc
