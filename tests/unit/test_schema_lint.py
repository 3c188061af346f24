"""The SQL lint finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

import pytest

from neolayer.schema.files import load_migrations
from neolayer.schema.lint import (
    Finding,
    load_exceptions,
    own_findings,
    squawk_findings,
    unexcused,
)

DOWN = "\n-- migrate:down none: a test\n"


def write(folder: Path, line: str, text: str) -> None:
    (folder / line).mkdir()
    (folder / line / "0001_test.sql").write_text(text + DOWN)


def rules(folder: Path) -> list[str]:
    return [finding.rule for finding in own_findings(load_migrations(folder), folder)]


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        ("core", "-- migrate:up\n-- Why.\nCREATE TABLE a.t ();\nCREATE TABLE a.u ();", []),
        ("core", "-- migrate:up\n-- Why.\nCREATE TABLE a.t ();\n\nSELECT 1;", ["reason"]),
        (
            "core",
            "-- migrate:up transaction:false\n-- Why.\nCREATE INDEX CONCURRENTLY i ON a.t (b);",
            ["repeatable"],
        ),
        ("clickhouse", "-- migrate:up\n-- Why.\nCREATE TABLE t (a Int8);", ["repeatable"]),
        ("clickhouse", "-- migrate:up\n-- Why.\nCREATE TABLE IF NOT EXISTS t (a Int8);", []),
    ],
)
def test_our_own_rules(tmp_path: Path, line: str, text: str, expected: list[str]) -> None:
    """A reason above each group; repeatable where no transaction protects."""
    write(tmp_path, line, text)
    assert rules(tmp_path) == expected


def test_squawk_reads_the_way_up(tmp_path: Path) -> None:
    """A change that would lock a live table is found, with its line."""
    write(tmp_path, "core", "-- migrate:up\n-- Why.\nALTER TABLE a.t ADD COLUMN b int NOT NULL;")
    found = {(f.rule, f.line) for f in squawk_findings(load_migrations(tmp_path), tmp_path)}
    assert ("adding-required-field", 3) in found


def test_an_exception_covers_what_it_names_and_no_more() -> None:
    """And one that covers nothing any more is a finding itself."""
    exceptions = load_exceptions(
        '[[pgrls]]\nrule = "SEC001"\nwhere = "core\\\\.a"\nreason = "because"\n'
        '[[squawk]]\nrule = "gone"\nreason = "once"\n'
    )
    findings = [Finding("pgrls", "SEC001", place, "no RLS") for place in ("core.a", "core.ab")]
    left = unexcused(findings, exceptions)
    assert [(f.where, f.rule) for f in left] == [
        ("core.ab", "SEC001"),
        ("lint_exceptions.toml", "gone"),
    ]


def test_an_exception_needs_a_reason() -> None:
    """Otherwise nobody can tell later whether it still holds."""
    with pytest.raises(KeyError, match="reason"):
        load_exceptions('[[pgrls]]\nrule = "SEC001"\n')
