"""One file plus NEOLAYER_*; nothing at all is a working configuration; secrets never show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fixtures.shared_data import REPOSITORY

from neolayer.errors import SettingsError
from neolayer.settings import _NOT_SETTINGS, Settings, load_settings, variables
from neolayer.supervision import variables_of
from neolayer.telemetry import mask


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_file_means_everything_embedded(empty_folder: Path) -> None:
    """Without a file every DSN is unset and data lives in .neolayer here."""
    settings = load_settings()
    assert settings.data_dir == empty_folder / ".neolayer"
    assert settings.postgres.dsn is None
    assert settings.redis.dsn is None
    assert settings.clickhouse.dsn is None


def test_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable overrides the same field of the file and leaves its neighbours."""
    Path("neolayer.toml").write_text('[serve]\nport = 7000\nhost = "::1"\n')
    monkeypatch.setenv("NEOLAYER_SERVE__PORT", "7001")
    settings = load_settings()
    assert (settings.serve.port, settings.serve.host) == (7001, "::1")


def test_a_relative_data_dir_in_a_file_is_relative_to_that_file(empty_folder: Path) -> None:
    """Where one stands when giving the command does not move the data."""
    (empty_folder / "etc").mkdir()
    file = empty_folder / "etc" / "layer.toml"
    file.write_text('data_dir = "data"\n')
    assert load_settings(file).data_dir == empty_folder / "etc" / "data"


def test_the_command_lines_data_dir_beats_all(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--data-dir wins over file and environment."""
    monkeypatch.setenv("NEOLAYER_DATA_DIR", "elsewhere")
    assert load_settings(data_dir=Path("here")).data_dir == empty_folder / "here"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("data_dir = ", "neolayer.toml"),
        ("[serve]\nport = 70000\n", "serve.port"),
        ("[serve]\nporrt = 1\n", "serve.porrt"),
        ("[postgress]\n", "postgress"),
        ("\xff", "neolayer.toml"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_the_thing(content: str, named: str) -> None:
    """Syntax, range, spelling and encoding errors each name the file or the field."""
    Path("neolayer.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=named):
        load_settings()


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable to mend."""
    monkeypatch.setenv("NEOLAYER_RELAY__BATCH_ROWS", "many")
    with pytest.raises(SettingsError, match="NEOLAYER_RELAY__BATCH_ROWS"):
        load_settings()


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable would otherwise be a setting that silently does nothing."""
    monkeypatch.setenv("NEOLAYER_POSTGRES__DNS", "postgresql://x")
    with pytest.raises(SettingsError, match="NEOLAYER_POSTGRES__DNS"):
        load_settings()


def test_what_is_read_beside_the_settings_bears_another_name() -> None:
    """Whoever names a folder for the bench or a seed for a test sets it for our commands too, which
    would refuse a variable of their own prefix that is no setting."""
    known = {*variables(Settings), *_NOT_SETTINGS}
    read = re.compile(r"""environ(?:\.get\(|\[|\.setdefault\()\s*["'](NEOLAYER_\w+)""")
    for folder in ("bench", "tests", "tools"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            if ".venv" not in file.parts:
                assert set(read.findall(file.read_text(encoding="utf-8"))) <= known, file


def test_a_named_file_that_is_absent_is_refused() -> None:
    """--config FILE never falls back to defaults in silence."""
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(Path("absent.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:hunter2@db:5432/x",
        "redis://:hunter2@localhost",
        "postgresql://u:has hunter2@h/x",
        "postgresql://u:s3cr@hunter2@h/x",
        "host=db password=hunter2 user=ann",
        "password='hunter2'",
        "API_KEY: hunter2",
        '{"name": "ann", "new_password": "hunter2"}',
        "{'private_key': 'hunter2'}",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    """Passwords in URLs, connection strings and key-value pairs do not show."""
    assert "hunter2" not in mask(text)
    assert "***" in mask(text)


def test_a_childs_variables_say_the_same(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists and secrets too reach a process that does not find our file."""
    Path("neolayer.toml").write_text(
        '[keys]\nprovider = "environment"\nkey = "new"\nprevious = ["old, \\"er\\"", "oldest"]\n'
        '[redis]\ndsn = "redis://:hunter2@cache"\n'
    )
    ours = load_settings()
    Path("neolayer.toml").unlink()
    for name, value in variables_of(ours).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == ours
    assert [key.get_secret_value() for key in ours.keys.previous] == ['old, "er"', "oldest"]
