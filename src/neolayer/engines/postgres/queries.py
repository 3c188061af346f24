"""Named queries from `.sql` files.

A query is a line `-- name --`, comment lines that say what it is for, then the statement with
`%(name)s` parameters. A room loads its file once:

    sql = load_queries(__name__, "queries.sql")
    await connection.execute(sql.rename_tenant, {"tenant_id": ..., "name": ...})
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import LiteralString, cast

_HEADER = re.compile(r"^-- (?P<name>[a-z][a-z0-9_]*) --[ \t]*$", re.MULTILINE)


class Queries(Mapping[str, LiteralString]):
    """The queries of one file, as attributes and as a mapping in file order.

    Typed LiteralString, because the text ships with the package and never holds a caller's value.
    """

    def __init__(self, text: str, *, origin: str) -> None:
        self._origin = origin
        self._queries = dict(_split(text, origin))

    def __getattr__(self, name: str) -> LiteralString:
        try:
            return self._queries[name]
        except KeyError:
            raise AttributeError(f"{self._origin} has no query {name!r}") from None

    def __getitem__(self, name: str) -> LiteralString:
        return self._queries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def load_queries(package: str, file: str = "queries.sql") -> Queries:
    """Read `file` of `package`; a module's `__name__` stands for the package it lies in.

    Raises ValueError on a query without a name, a purpose or a statement, or named twice.
    """
    return Queries(_resource(package, file).read_text(encoding="utf-8"), origin=f"{package}/{file}")


def _resource(package: str, file: str) -> Traversable:
    try:
        return resources.files(package) / file
    except TypeError:  # a plain module: its folder is the parent package
        return resources.files(package.rpartition(".")[0]) / file


def _split(text: str, origin: str) -> Iterator[tuple[str, LiteralString]]:
    headers = list(_HEADER.finditer(text))
    seen: set[str] = set()
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        name = header["name"]
        body = text[header.end() : following.start() if following else None].strip()
        if name in seen:
            raise ValueError(f"{origin}: query {name!r} stands twice")
        if not body.startswith("--") or not _statement(body):
            raise ValueError(
                f"{origin}: query {name!r} needs a sentence of purpose and a statement"
            )
        seen.add(name)
        yield name, cast(LiteralString, _statement(body))


def _statement(body: str) -> str:
    """The body without its leading comment and final semicolon."""
    lines = body.splitlines()
    while lines and (lines[0].lstrip().startswith("--") or not lines[0].strip()):
        lines.pop(0)
    return "\n".join(lines).strip().rstrip(";")
