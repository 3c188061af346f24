"""multipart/form-data: long query parameters, and tables that exist for one query only.

Clients send a form where a query with its parameters is too long for a URL, and where data go
along with a query ("external data": a part with a file name, whose structure and format stand in
the URL as `name_structure` or `name_types`, and `name_format`).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from aiohttp import BodyPartReader, web

from neolayer.engines.embedded.clickhouse_server.body import patience
from neolayer.engines.embedded.clickhouse_server.coding import PIECE_BYTES
from neolayer.engines.embedded.clickhouse_server.engine import Link
from neolayer.engines.embedded.clickhouse_server.faults import (
    BAD_ARGUMENTS,
    NOT_IMPLEMENTED,
    QUERY_IS_TOO_LARGE,
    ClickHouseFault,
)
from neolayer.engines.embedded.clickhouse_server.overlay import quote_name

MAX_FIELD_BYTES = 16 << 20
MAX_PARTS = 4096
_IN_MEMORY_BYTES = 4 << 20
_NAME = re.compile(r"^[A-Za-z_]\w*$")


@dataclass(frozen=True, slots=True)
class Form:
    """The text fields, and the content of each file by its part's name."""

    fields: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, IO[bytes]] = field(default_factory=dict[str, IO[bytes]])

    def close(self) -> None:
        for content in self.files.values():
            content.close()


@dataclass(frozen=True, slots=True)
class ExternalTable:
    """A temporary table that is there for one query. Methods block."""

    name: str
    columns: str
    data_format: str
    content: IO[bytes]

    def create(self, link: Link) -> None:
        sql = f"CREATE TEMPORARY TABLE {quote_name(self.name)} ({self.columns}) ENGINE = Memory"
        if link.classify(sql.encode()).statements != 1:
            raise ClickHouseFault.of(BAD_ARGUMENTS, f"The structure of {self.name} is malformed")
        link.run(sql.encode())
        insert = link.insert(
            f"INSERT INTO {quote_name(self.name)}".encode(), data_format=self.data_format
        )
        try:
            for piece in _pieces(self.content):
                insert.append(piece)
            insert.finish()
        except BaseException:  # a row that cannot be read too: else the link runs nothing more
            link.abandon_insert()
            raise

    def drop(self, link: Link) -> None:
        link.run(f"DROP TEMPORARY TABLE IF EXISTS {quote_name(self.name)}".encode())


async def read_form(request: web.BaseRequest) -> Form:
    """Read the whole form; large files wait on disk. Close it after use."""
    if request.headers.get("Content-Encoding"):
        raise ClickHouseFault.of(NOT_IMPLEMENTED, "A form with a content encoding")
    form = Form()
    try:
        await _read_parts(request, form)
    except ValueError as exc:
        form.close()
        raise ClickHouseFault.of(BAD_ARGUMENTS, f"The form is malformed: {exc}") from exc
    except BaseException:  # a caller who hangs up too: its files on disk go
        form.close()
        raise
    return form


def external_tables(form: Form, url: Mapping[str, str]) -> tuple[ExternalTable, ...]:
    """Tables for the form's files. Raises a fault where a structure is missing."""
    return tuple(_external(name, content, url) for name, content in form.files.items())


def _external(name: str, content: IO[bytes], url: Mapping[str, str]) -> ExternalTable:
    if not _NAME.match(name):
        raise ClickHouseFault.of(BAD_ARGUMENTS, f"{name[:80]!r} is not the name of a table")
    columns = url.get(f"{name}_structure")
    if not columns and (types := url.get(f"{name}_types")):
        columns = ", ".join(f"_{n} {kind}" for n, kind in enumerate(_split(types), start=1))
    if not columns:
        raise ClickHouseFault.of(BAD_ARGUMENTS, f"External table {name} has no structure")
    return ExternalTable(name, columns, url.get(f"{name}_format", "TabSeparated"), content)


async def _read_parts(request: web.BaseRequest, form: Form) -> None:
    reader = await request.multipart()
    for _ in range(MAX_PARTS):
        async with patience():
            part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader) or not part.name:
            raise ValueError("a part without a name")
        if part.filename is None:
            form.fields[part.name] = await _read_field(part)
        else:
            form.files[part.name] = await _read_file(part)
    raise ValueError(f"more than {MAX_PARTS} parts")


async def _read_field(part: BodyPartReader) -> str:
    content = bytearray()
    while chunk := await _chunk(part):
        content += chunk
        if len(content) > MAX_FIELD_BYTES:
            reason = f"The field {part.name} exceeds {MAX_FIELD_BYTES} bytes"
            raise ClickHouseFault.of(QUERY_IS_TOO_LARGE, reason)
    return content.decode(errors="surrogateescape")


async def _read_file(part: BodyPartReader) -> IO[bytes]:
    content = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 (closed with the form)
    while chunk := await _chunk(part):
        content.write(chunk)
    content.seek(0)
    return content


async def _chunk(part: BodyPartReader) -> bytes:
    async with patience():
        return await part.read_chunk(PIECE_BYTES)


def _split(types: str) -> Iterator[str]:
    """Cut a list of types at its outer commas."""
    depth = start = 0
    for at, sign in enumerate(types):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            yield types[start:at].strip()
            start = at + 1
    yield types[start:].strip()


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while piece := content.read(PIECE_BYTES):
        yield piece
