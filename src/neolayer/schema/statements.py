"""Splitting an SQL script into its statements.

PostgreSQL and ClickHouse run one statement at a time here, so that a killed migration knows how far
it came and a refused statement can be named. The scanner knows what can hide a semicolon: quotes,
dollar quotes and comments. A comment above a statement stays with it: it is the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# What may hide a semicolon, then the semicolon itself.
_TOKEN = re.compile(
    r"""
      --[^\n]*
    | /\*.*?\*/
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (?P<dollar>\$[A-Za-z_]*\$).*?(?P=dollar)
    | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
# The body of an SQL-standard function holds semicolons of its own.
_ATOMIC = re.compile(r"\bBEGIN\s+ATOMIC\b", re.IGNORECASE)
_END = re.compile(r"\bEND\s*$", re.IGNORECASE)


def split_statements(script: str) -> tuple[str, ...]:
    """The statements of a script in order, each with the comment above it, without semicolons."""
    return tuple(_statements(script))


def _statements(script: str) -> Iterator[str]:
    start = 0
    for token in _TOKEN.finditer(script):
        if token["end"] is None or _is_inside_body(script[start : token.start()]):
            continue
        statement = script[start : token.start()].strip()
        if without_comments(statement):
            yield statement
        start = token.end()
    rest = script[start:].strip()
    if without_comments(rest):
        yield rest


def _is_inside_body(text: str) -> bool:
    return bool(_ATOMIC.search(text)) and not _END.search(text)


def without_comments(statement: str) -> str:
    """The statement alone, on as many lines as it has."""
    return _COMMENT.sub("", statement).strip()


def comment_of(statement: str) -> str:
    """The comment that stands above a statement, as one line; empty if there is none."""
    lines: list[str] = []
    for line in statement.splitlines():
        if not line.strip().startswith("--"):
            break
        lines.append(line.strip().lstrip("-").strip())
    return " ".join(lines)


def headline(statement: str) -> str:
    """The first line of the statement itself, for people."""
    lines = without_comments(statement).splitlines()
    return lines[0].rstrip(" (") if lines else ""
