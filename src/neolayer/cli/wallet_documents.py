"""Keystores and transactions, from files and into files of the person at the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from neolayer.errors import InvalidInput

_MAX_DOCUMENT_BYTES = 1 << 20


@contextmanager
def new_private_file(file: Path) -> Generator[TextIO]:
    """A file for us alone (0600) that was not there before, and is not there after an error."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise InvalidInput(f"{file} cannot be made: {exc.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:  # Ctrl-C too: no half of a keystore stays
        file.unlink(missing_ok=True)
        raise


def document(file: Path | None) -> bytes:
    """What the file holds, or stdin where there is none. Raises InvalidInput."""
    try:
        if file is None:
            return sys.stdin.buffer.read(_MAX_DOCUMENT_BYTES)
        with file.open("rb") as opened:
            return opened.read(_MAX_DOCUMENT_BYTES)
    except OSError as exc:
        raise InvalidInput(f"{file} cannot be read: {exc.strerror}") from None


def fields(document: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice: what is signed must be what was read."""
    try:
        fields: Any = json.loads(document, object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise InvalidInput("the transaction is not JSON, or names stand twice in it") from None
    if not isinstance(fields, dict):
        raise InvalidInput("the transaction is not a JSON object")
    return cast("dict[str, Any]", fields)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
