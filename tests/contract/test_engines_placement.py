"""Where data and programs lie: closed folders, stale files, disks without room."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
from tests.fixtures.fix_disk import fill
from tests.fixtures.fix_postgres import reachable_wheel

from neolayer.engines.embedded.data_directory import DataDirectory, unusable
from neolayer.engines.embedded.placement import place_data, reachable_programs
from neolayer.engines.embedded.postgres import EmbeddedPostgres
from neolayer.engines.embedded.privileges import Account, account_for, blocking_folder
from neolayer.engines.embedded.valkey import EmbeddedValkey
from neolayer.errors import DataDirectoryError, SettingsError

STRANGER = Account("stranger", 54321, 54321)
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def closed(traversable_tmp: Path) -> Path:
    """A folder that lets only its owner through, as a home folder does."""
    home = traversable_tmp / "home"
    home.mkdir(mode=0o700)
    return home


def test_the_first_closed_folder_is_named(closed: Path, traversable_tmp: Path) -> None:
    """The topmost folder that stops the account is found, and none where the way is free."""
    assert blocking_folder(closed / "a" / "b", STRANGER) == closed
    assert blocking_folder(traversable_tmp / "a", STRANGER) is None
    assert blocking_folder(closed / "a", None) is None


def test_a_chosen_place_that_is_closed_is_refused(closed: Path) -> None:
    """One sentence names the folder and the account, and says what to do; nothing is made."""
    with pytest.raises(DataDirectoryError, match=f"'stranger'.*cannot pass through {closed}$") as e:
        place_data(closed / "data", chosen=True, account=STRANGER)
    assert f"chmod o+x {closed}" in str(e.value.hint)
    assert not (closed / "data").exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root gives folders away")
def test_the_default_place_that_is_closed_points_elsewhere(
    closed: Path, traversable_tmp: Path
) -> None:
    """The default directory becomes a link to a private folder that the account can reach."""
    default, system = closed / ".neolayer", traversable_tmp / "system"
    said = place_data(default, chosen=False, account=STRANGER, system_folder=system)
    target = default.resolve()
    assert target.parent == system
    assert said is not None
    assert str(target) in said
    assert "\n" not in said
    entry = target.stat()
    assert (stat.S_IMODE(entry.st_mode), entry.st_gid) == (0o710, STRANGER.gid)
    assert entry.st_uid == os.geteuid()  # an owner could swap what root writes to
    assert place_data(default, chosen=False, account=STRANGER, system_folder=system) is None


def test_programs_behind_a_closed_folder_are_copied_once(
    closed: Path, traversable_tmp: Path
) -> None:
    """Programs the account cannot reach are copied with their neighbours; others are used."""
    programs = closed / "pginstall" / "bin"
    programs.mkdir(parents=True, mode=0o700)
    (programs / "postgres").write_text("#!/bin/sh\n")
    (programs / "postgres").chmod(0o700)
    (programs.parent / "share").mkdir(mode=0o700)
    staging = traversable_tmp / "programs"
    before = os.umask(0o077)  # as a running layer has it
    try:
        copy = reachable_programs(programs, staging, STRANGER)
    finally:
        os.umask(before)
    assert staging.stat().st_mode & 0o005 == 0o005
    assert copy == staging / "pginstall" / "bin"
    assert (copy / "postgres").stat().st_mode & 0o005 == 0o005
    assert (copy.parent / "share").stat().st_mode & 0o005 == 0o005
    (copy / "postgres").write_text("kept")
    assert (reachable_programs(programs, staging, STRANGER) / "postgres").read_text() == "kept"
    assert reachable_programs(copy, staging / "other", STRANGER) == copy
    assert reachable_programs(programs, staging, None) == programs


def test_an_account_that_cannot_run_a_server() -> None:
    """An unknown account and root itself are refused, where an account is needed at all."""
    if not AS_ROOT:
        assert account_for("no-such-account") is None
        return
    with pytest.raises(SettingsError, match="no account 'no-such-account'"):
        account_for("no-such-account")
    with pytest.raises(SettingsError, match="does not run as root"):
        account_for("root")


def test_a_stale_pid_file_that_names_a_stranger_goes(traversable_tmp: Path) -> None:
    """A killed server's `postmaster.pid` with a number that another process has by now goes."""
    cluster = EmbeddedPostgres(traversable_tmp / "postgres", password="unused")
    cluster.data.mkdir(parents=True)
    (cluster.data / "PG_VERSION").write_text("17\n")
    stale = cluster.data / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n")
    cluster.prepare()
    assert not stale.exists()


def test_a_half_made_cluster_is_made_again(traversable_tmp: Path) -> None:
    """What a kill during initdb leaves does not count as a cluster."""
    cluster = EmbeddedPostgres(
        traversable_tmp / "postgres", "unused", bin_dir=reachable_wheel(traversable_tmp)
    )
    unfinished = cluster.directory / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("17\n")
    assert cluster.initialise()
    assert not unfinished.exists()
    assert not (cluster.directory / "password.once").exists()
    assert "127.0.0.1/32" in (cluster.data / "pg_hba.conf").read_text()
    assert not cluster.initialise()


# Data directories that cannot be used


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "we may not write there"),
        (errno.ENOSPC, "the disk is full"),
    ],
)
def test_each_refusal_has_its_words(number: int, words: str) -> None:
    """The system's errors become one sentence each."""
    refusal = unusable(Path("/data"), OSError(number, os.strerror(number)))
    assert refusal.message == f"data directory /data cannot be used: {words}"


def test_a_file_in_the_way(traversable_tmp: Path) -> None:
    """A path that leads through a file is refused."""
    (traversable_tmp / "file").touch()
    for path in (traversable_tmp / "file", traversable_tmp / "file" / "data"):
        with pytest.raises(DataDirectoryError, match="is a file"):
            DataDirectory(path).prepare(None)


def test_a_folder_that_is_another_s(traversable_tmp: Path) -> None:
    """A folder with other things in it is refused and left as it is; an empty one is taken, and one
    that was begun, or served before, is taken again."""
    home = traversable_tmp / "home"
    home.mkdir(mode=0o755)
    (home / "letters").mkdir()
    with pytest.raises(DataDirectoryError, match="holds other things, such as letters"):
        DataDirectory(home).prepare(None)
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert [each.name for each in home.iterdir()] == ["letters"]
    (home / "letters").rmdir()
    for _ in range(2):
        DataDirectory(home).prepare(None)
    DataDirectory(home).secrets()
    (home / "objects").mkdir()
    DataDirectory(home).prepare(None)


@pytest.mark.parametrize("name", ("back\\slash", "two\nlines"))
def test_a_path_that_an_engine_would_read_otherwise(traversable_tmp: Path, name: str) -> None:
    """It is refused before anything is made."""
    with pytest.raises(DataDirectoryError, match="holds a backslash or a control character"):
        DataDirectory(traversable_tmp / name).prepare(None)
    assert list(traversable_tmp.iterdir()) == []


def test_a_quote_in_the_path_is_no_end_of_it(traversable_tmp: Path) -> None:
    """Valkey's configuration file names the folder in quotes."""
    engine = EmbeddedValkey(traversable_tmp / 'q"uote', password="p4ssword-of-tests")
    engine.initialise()
    assert f'dir "{traversable_tmp}/q\\"uote"' in engine.configuration.read_text().splitlines()


def test_a_disk_without_room(small_disk: Path) -> None:
    """A disk with too little room is refused before anything is written that needs it."""
    with pytest.raises(DataDirectoryError, match=r"has \d MiB left, 200 MiB are needed"):
        DataDirectory(small_disk / "data").prepare(None)


def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full to the last byte is refused, and its state file stays whole."""
    monkeypatch.setattr("neolayer.engines.embedded.data_directory.LEAST_FREE_BYTES", 0)
    directory = DataDirectory(small_disk / "data")
    directory.prepare(None)
    directory.secrets()
    before = (directory.path / "secrets.json").read_bytes()
    fill(small_disk)
    with pytest.raises(DataDirectoryError, match="the disk is full"):
        directory.prepare(None)
    assert (directory.path / "secrets.json").read_bytes() == before


def test_a_read_only_disk(small_disk: Path) -> None:
    """A read-only file system is refused."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DataDirectoryError, match="the file system is read-only"):
        DataDirectory(small_disk / "data").prepare(None)
