"""Where a statement's parts lie: the data of an INSERT, the FORMAT clause of a query.

The engine decides what a text means; here we only find places to cut. A cut in a wrong place is
refused by the engine's parser, never run as something else, because rights are judged on what the
engine parsed (see `engine.Link.classify`) and held by the link's own role and `readonly`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""
      (?P<blank> \s+ | --[^\n]* | \#[!\x20][^\n]* | /\*.*?\*/ )
    | (?P<text>  '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*`
               | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<word>  [A-Za-z_][A-Za-z_0-9$]* )
    | (?P<open>  [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<other> [0-9.,\x20+*=<>%:?!]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: bytes
    start: int
    end: int

    @property
    def keyword(self) -> bytes:
        return self.text.upper() if self.kind == "word" else b""


@dataclass(frozen=True, slots=True)
class InsertHead:
    """An INSERT that expects data: the text without FORMAT or VALUES, and where data begins."""

    text: bytes
    format: str
    data_at: int


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that may answer with rows: everything up to FORMAT, and FORMAT on."""

    text: bytes
    tail: bytes
    format: str

    def into(self, path: str) -> bytes:
        """The statement, with its answer written to `path` instead."""
        return b"%b\nINTO OUTFILE '%b' TRUNCATE %b" % (self.text, path.encode(), self.tail)


def first_word(sql: bytes) -> str:
    """The first word in upper case, or an empty text."""
    for token in _significant(sql):
        if token.kind != "open":
            return token.keyword.decode()
    return ""


def insert_head(sql: bytes) -> InsertHead | None:
    """Find where the data of an INSERT begins; None where the statement takes no data."""
    tokens = _top_level(sql)
    first = next(tokens, None)
    if first is None or first.keyword != b"INSERT":
        return None
    previous = first
    for token in _after_target(tokens):
        if previous.keyword == b"FORMAT" and token.kind == "word":
            return InsertHead(
                sql[: previous.start].rstrip(), token.text.decode(), _skip(sql, token.end)
            )
        if token.keyword == b"VALUES":
            return InsertHead(sql[: token.start].rstrip(), "Values", token.end)
        if token.keyword in {b"SELECT", b"WITH", b"INFILE", b"WATCH"}:
            return None
        previous = token
    return None


def query(sql: bytes, *, default_format: str) -> Query:
    """Split off the FORMAT clause, or write one where there is none."""
    tokens = list(_top_level(sql))
    while tokens and tokens[-1].text == b";":
        tokens.pop()
    end = tokens[-1].end if tokens else 0
    clause = _format_clause(tokens)
    if clause is None:
        return Query(sql[:end].rstrip(), b"FORMAT " + default_format.encode(), default_format)
    word, name = clause
    return Query(sql[: word.start], sql[word.start : end], name.text.decode())


def _format_clause(tokens: list[_Token]) -> tuple[_Token, _Token] | None:
    """The last `FORMAT name` that ends the statement or stands before SETTINGS."""
    following = b"SETTINGS"
    for word, name in zip(tokens[-2::-1], tokens[:0:-1], strict=True):
        if word.keyword == b"FORMAT" and name.kind == "word":
            return (word, name) if following == b"SETTINGS" else None
        following = name.keyword
    return None


def _tokens(sql: bytes) -> Iterator[_Token]:
    for found in _TOKEN.finditer(sql):
        kind = found.lastgroup or "other"
        yield _Token("text" if kind == "tag" else kind, found[0], found.start(), found.end())


def _significant(sql: bytes) -> Iterator[_Token]:
    return (token for token in _tokens(sql) if token.kind != "blank")


def _top_level(sql: bytes) -> Iterator[_Token]:
    """Tokens outside all brackets; a bracketed part shows only as its closing bracket."""
    depth = 0
    for token in _significant(sql):
        if token.kind == "open":
            depth += 1
        elif token.kind == "close":
            depth -= 1
        if depth <= 0 and token.kind != "open":
            yield token


def _after_target(tokens: Iterator[_Token]) -> Iterator[_Token]:
    """Drop INTO, TABLE or FUNCTION, and the target's name, which may be spelt like a keyword."""
    pending = next(tokens, None)
    while pending is not None and pending.keyword in {b"INTO", b"TABLE", b"FUNCTION"}:
        pending = next(tokens, None)
    while (following := next(tokens, None)) is not None:
        if following.text != b".":
            yield following
            break
        next(tokens, None)
    yield from tokens


def _skip(sql: bytes, at: int) -> int:
    """Data begin after blanks and at most one line break."""
    while sql[at : at + 1] in {b" ", b"\t", b"\f"}:
        at += 1
    if sql[at : at + 2] == b"\r\n":
        return at + 2
    return at + 1 if sql[at : at + 1] == b"\n" else at
