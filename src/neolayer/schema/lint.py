"""Rules for migrations: `python -m neolayer.schema.lint`.

Three readers. squawk reads what `up` does to a running system; pgrls reads the row security of the
migrated databases, on a throw-away server; our own rules read what neither knows: a reason above
every group of statements, and statements that can be repeated where no transaction protects them.
What is kept in spite of a finding stands in `lint_exceptions.toml`, with its reason.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from neolayer.engines.endpoints import Database, PostgresEndpoint, Role
from neolayer.errors import NotSupported
from neolayer.schema.files import Migration, load_migrations
from neolayer.schema.lines import POSTGRES_LINES, Line
from neolayer.schema.runner import migrate_up
from neolayer.schema.statements import comment_of, headline, without_comments
from neolayer.schema.throwaway import throwaway_servers

ROOT = Path(__file__).parent
OLDEST_POSTGRES = "15.0"
_SCHEMAS = {
    Database.CORE: "core,auth,blockchain,enclave,audit",
    Database.EVENT_STORE: "core,public",
    Database.TIMESERIES: "public",
}
_REPEATABLE = re.compile(
    r"\bIF\s+(NOT\s+)?EXISTS\b|^(CREATE\s+OR\s+REPLACE|GRANT|REVOKE|VACUUM|ANALYZE)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a reader objects to. `where` is what exceptions match; `line` is for people."""

    tool: str
    rule: str
    where: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        return f"{place}: {self.tool} {self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class LintException:
    """A finding we live with."""

    tool: str
    rule: str
    where: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        named = (self.tool, self.rule) == (finding.tool, finding.rule)
        return named and re.fullmatch(self.where, finding.where) is not None


def load_exceptions(text: str) -> list[LintException]:
    """Read the exceptions. Raises KeyError where one has no rule or no reason."""
    return [
        LintException(tool, entry["rule"], entry.get("where", ".*"), entry["reason"])
        for tool, entries in tomllib.loads(text).items()
        for entry in entries
    ]


def unexcused(findings: Iterable[Finding], exceptions: list[LintException]) -> list[Finding]:
    """What no exception covers, and each exception that covers nothing."""
    findings = list(findings)
    left = [f for f in findings if not any(entry.covers(f) for entry in exceptions)]
    idle = [entry for entry in exceptions if not any(entry.covers(f) for f in findings)]
    return left + [
        Finding(entry.tool, entry.rule, "lint_exceptions.toml", f"matches nothing: {entry.reason}")
        for entry in idle
    ]


# Our own rules


def own_findings(migrations: Iterable[Migration], root: Path = ROOT) -> Iterator[Finding]:
    for migration in migrations:
        text = (root / migration.path).read_text(encoding="utf-8")
        yield from _without_reason(migration, text)
        for script in (migration.up, migration.down):
            if script is None or (script.transactional and migration.line is not Line.CLICKHOUSE):
                continue
            for statement in script.statements:
                if not _REPEATABLE.search(without_comments(statement)):
                    yield _own("repeatable", migration, statement, "must be safe to run twice")


def _without_reason(migration: Migration, text: str) -> Iterator[Finding]:
    """The first statement after a blank line needs a comment; what follows directly shares it."""
    end = 0
    for statement in migration.up.statements:
        start = text.index(statement, end)
        if "\n\n" in text[end:start] and not comment_of(statement):
            yield _own("reason", migration, statement, "no reason stands above it")
        end = start + len(statement)


def _own(rule: str, migration: Migration, statement: str, message: str) -> Finding:
    return Finding("neolayer", rule, migration.path, f"{message}: {headline(statement)}")


# squawk


def squawk_findings(migrations: Iterable[Migration], root: Path = ROOT) -> Iterator[Finding]:
    for migration in migrations:
        if migration.line not in POSTGRES_LINES:
            continue
        text = (root / migration.path).read_text(encoding="utf-8")
        # The way back drops things: that is what it is for.
        up = text.split("\n-- migrate:down")[0]
        for entry in _squawk(migration, up):
            yield Finding(
                "squawk",
                str(entry["rule_name"]),
                migration.path,
                str(entry["message"]),
                line=int(entry["line"]) + 1,
            )


def _squawk(migration: Migration, text: str) -> list[dict[str, Any]]:
    options = ["--reporter", "json", "--pg-version", OLDEST_POSTGRES]
    if migration.up.transactional:
        options.append("--assume-in-transaction")
    answer = subprocess.run(
        [program("squawk"), *options, "--stdin-filepath", migration.path],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(answer.stdout or "[]")


# pgrls


def pgrls_findings(cluster: PostgresEndpoint) -> Iterator[Finding]:
    for database, schemas in _SCHEMAS.items():
        command = [program("pgrls"), "lint", "--format", "json", "--schemas", schemas]
        answer = subprocess.run(
            command,
            env={"DATABASE_URL": _url(cluster, database), "PATH": str(Path(sys.executable).parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        for entry in json.loads(answer.stdout)["violations"]:
            yield Finding("pgrls", entry["rule_id"], entry["location"], entry["message"])


def _url(cluster: PostgresEndpoint, database: Database) -> str:
    values = conninfo_to_dict(cluster.dsn(Role.ADMIN, database))
    user, password = quote(str(values["user"])), quote(str(values["password"]))
    return f"postgresql://{user}:{password}@{values['host']}:{values['port']}/{database}"


def program(name: str) -> str:
    """A program that was installed beside this Python. Raises NotSupported."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise NotSupported(
            name, "is not installed", hint="install the development group: make lint"
        )
    return found


async def _row_security() -> list[Finding]:
    async with throwaway_servers(with_clickhouse=False) as endpoints:
        await migrate_up(endpoints, lines=POSTGRES_LINES)
        return await asyncio.to_thread(lambda: list(pgrls_findings(endpoints.postgres)))


def main() -> int:
    migrations = load_migrations()
    findings = [*own_findings(migrations), *squawk_findings(migrations)]
    findings += asyncio.run(_row_security())
    text = (resources.files("neolayer.schema") / "lint_exceptions.toml").read_text("utf-8")
    problems = unexcused(findings, load_exceptions(text))
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    kept = len(findings) - len([p for p in problems if p.where != "lint_exceptions.toml"])
    sys.stderr.write(f"SQL lint: {len(problems)} problems, {kept} findings kept with a reason\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
