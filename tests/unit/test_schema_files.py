"""Migration files: how they are cut into statements, ordered and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from neolayer.errors import MigrationError
from neolayer.schema.files import load_migrations, parse_migration, parse_number
from neolayer.schema.lines import Line
from neolayer.schema.statements import comment_of, headline, split_statements

FILE = "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;\n"


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' ; SELECT 'it''s;'", ["SELECT ';'", "SELECT 'it''s;'"]),
        ('SELECT ";" ;', ['SELECT ";"']),
        ("DO $$ BEGIN a; b; END $$; SELECT 1;", ["DO $$ BEGIN a; b; END $$", "SELECT 1"]),
        ("DO $x$ $$;$$ ; $x$;", ["DO $x$ $$;$$ ; $x$"]),
        ("-- a; b\nSELECT 1; /* c; */ SELECT 2;", ["-- a; b\nSELECT 1", "/* c; */ SELECT 2"]),
        ("SELECT 1; -- the end", ["SELECT 1"]),
        (
            "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3",
            ["CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; SELECT 2; END", "SELECT 3"],
        ),
        (" \n-- nothing\n;;", []),
    ],
)
def test_a_script_is_cut_where_statements_end(script: str, statements: list[str]) -> None:
    """Not at semicolons inside quotes, comments or bodies."""
    assert list(split_statements(script)) == statements


def test_the_comment_above_a_statement_is_its_reason() -> None:
    """Several lines are one reason; the headline is the statement's own first line."""
    statement = "-- Because of\n-- this.\nCREATE TABLE t (\n  id int\n)"
    assert comment_of(statement) == "Because of this."
    assert headline(statement) == "CREATE TABLE t"
    assert comment_of("SELECT 1") == ""


def test_a_file_says_how_it_runs() -> None:
    """Options stand behind the marks."""
    text = "-- migrate:up transaction:false\nSELECT 1;\n-- migrate:down none: it is for ever\n"
    migration = parse_migration(text, line=Line.CORE, file="0007_names.sql")
    assert (migration.number, migration.label) == (7, "0007_names")
    assert not migration.up.transactional
    assert migration.down is None
    assert migration.no_way_back == "it is for ever"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("7_names.sql", FILE),
        ("0007_Names.sql", FILE),
        ("0007_names.sql", "SELECT 1;"),
        ("0007_names.sql", "-- migrate:up\nSELECT 1;"),
        ("0007_names.sql", "-- migrate:down\n-- migrate:up\n"),
    ],
)
def test_a_file_that_is_no_migration_is_named(file: str, text: str) -> None:
    """One sentence with the file's name."""
    with pytest.raises(MigrationError, match=f"core/{file}"):
        parse_migration(text, line=Line.CORE, file=file)


def test_numbers_order_all_lines(tmp_path: Path) -> None:
    """One history: the folder does not matter, and a number stands once."""
    for name in ("core/0003_c.sql", "clickhouse/0001_a.sql", "event_store/0002_b.sql"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(FILE)
    assert [m.label for m in load_migrations(tmp_path)] == ["0001_a", "0002_b", "0003_c"]
    (tmp_path / "core/0002_again.sql").write_text(FILE)
    with pytest.raises(MigrationError, match="bear the same number"):
        load_migrations(tmp_path)


def test_a_number_may_be_written_in_three_ways() -> None:
    """As people type it, as files bear it, and whole."""
    assert [parse_number(text) for text in ("7", "0007", "0007_tenant_names")] == [7, 7, 7]
    with pytest.raises(MigrationError):
        parse_number("head")
