"""Migration files: `<line>/<number>_<name>.sql`.

    -- migrate:up
    -- Names are shown to people, so two tenants may share one.
    ALTER TABLE ...;
    -- migrate:down
    ALTER TABLE ...;

`-- migrate:up transaction:false` runs statement by statement, for what PostgreSQL refuses inside a
transaction; each statement must then be safe to repeat. `-- migrate:down none: <reason>` says why
there is no way back. The checksum is of the whole file: an applied file never changes again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path

from neolayer.errors import MigrationError
from neolayer.schema.lines import Line
from neolayer.schema.statements import split_statements

_FILE = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)(?P<suffix>\.[a-z]+)")
_MARK = re.compile(r"^-- migrate:(?P<direction>up|down)[ \t]*(?P<options>.*)$", re.MULTILINE)
_NONE = re.compile(r"none:\s*(?P<reason>\S.*)")


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Script:
    """One direction of a migration."""

    text: str
    transactional: bool = True

    @property
    def statements(self) -> tuple[str, ...]:
        """In order. Taken apart when asked for: most files were applied long ago."""
        return split_statements(self.text)


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """One file. `down` is None where there is no way back; `no_way_back` then says why."""

    number: int
    line: Line
    name: str
    checksum: str
    up: Script
    down: Script | None
    no_way_back: str = ""

    @property
    def label(self) -> str:
        return f"{self.number:04d}_{self.name}"

    @property
    def path(self) -> str:
        return f"{self.line}/{self.label}{self.line.suffix}"

    def script(self, direction: Direction) -> Script:
        """The script of a direction. Raises MigrationError where there is no way back."""
        if direction is Direction.UP:
            return self.up
        if self.down is None:
            raise MigrationError(f"{self.path} has no way back: {self.no_way_back}")
        return self.down


def load_migrations(root: Path | Traversable | None = None) -> tuple[Migration, ...]:
    """All migrations in their one order. Raises MigrationError on a file that cannot be read so."""
    found = sorted(_files(root or resources.files("neolayer.schema")))
    for earlier, later in pairwise(found):
        if earlier.number == later.number:
            raise MigrationError(f"{earlier.path} and {later.path} bear the same number")
    return tuple(found)


def _files(root: Path | Traversable) -> Iterator[Migration]:
    for line in Line:
        folder = root / line.value
        if not folder.is_dir():
            continue
        for file in folder.iterdir():
            if file.name.endswith(line.suffix):
                yield parse_migration(file.read_text(encoding="utf-8"), line=line, file=file.name)


def parse_migration(text: str, *, line: Line, file: str) -> Migration:
    """Read one file's text. Raises MigrationError naming the file."""
    named = _FILE.fullmatch(file)
    if named is None or named["suffix"] != line.suffix:
        raise MigrationError(f"{line}/{file}: a migration is named 0001_like_this{line.suffix}")
    sections = _sections(text, origin=f"{line}/{file}")
    down, no_way_back = _down(*sections[Direction.DOWN])
    return Migration(
        number=int(named["number"]),
        line=line,
        name=named["name"],
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        up=_script(*sections[Direction.UP]),
        down=down,
        no_way_back=no_way_back,
    )


def _sections(text: str, *, origin: str) -> dict[Direction, tuple[str, str]]:
    """Options and body of the two sections."""
    marks = list(_MARK.finditer(text))
    if [mark["direction"] for mark in marks] != ["up", "down"]:
        raise MigrationError(
            f"{origin} needs a line '-- migrate:up', then a line '-- migrate:down'"
        )
    ends = [marks[1].start(), len(text)]
    return {
        Direction(mark["direction"]): (mark["options"].strip(), text[mark.end() : end])
        for mark, end in zip(marks, ends, strict=True)
    }


def _script(options: str, body: str) -> Script:
    return Script(body, transactional="transaction:false" not in options)


def _down(options: str, body: str) -> tuple[Script | None, str]:
    none = _NONE.match(options)
    return (None, none["reason"]) if none else (_script(options, body), "")


def numbered(migrations: Iterable[Migration]) -> dict[int, Migration]:
    return {migration.number: migration for migration in migrations}


def parse_number(text: str) -> int:
    """The number in `7`, `0007` or `0007_tenant_names`. Raises MigrationError."""
    found = re.match(r"(\d+)(_|$)", text)
    if found is None:
        raise MigrationError(f"{text!r} is not a migration's number, such as 0007")
    return int(found[1])
