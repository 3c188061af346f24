"""Secrets on their way in: from a prompt, a file or a pipe, never from the command line.

Arguments are in the shell's history and in every process list.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from neolayer.errors import InvalidInput

MAX_CHARACTERS = 16_384


def read_secret(what: str, file: Path | None = None, *, twice: bool = False) -> str:
    """One line: of `file`, else asked for at the terminal, else of what is piped in.

    `twice` asks again, for a secret that is being made. Raises InvalidInput.
    """
    if file is not None:
        return _line(_read_file(what, file), what)
    if sys.stdin.isatty():
        return _asked(what, twice=twice)
    return _line(sys.stdin.read(MAX_CHARACTERS), what)


def _asked(what: str, *, twice: bool) -> str:
    try:
        secret = getpass.getpass(f"{what}: ")
        if twice and getpass.getpass(f"{what} again: ") != secret:
            raise InvalidInput(f"the two are not the same {what.lower()}")
    except EOFError:
        raise InvalidInput(f"no {what.lower()} was given") from None
    return _line(secret, what)


def _read_file(what: str, file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(MAX_CHARACTERS)
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise InvalidInput(f"the {what.lower()} cannot be read from {file}: {reason}") from None


def _line(text: str, what: str) -> str:
    line = text.splitlines()[0] if text.strip() else ""
    if not line:
        raise InvalidInput(f"no {what.lower()} was given")
    return line
