"""Who an embedded engine runs as.

PostgreSQL refuses to run as root, so when we are root it runs as an unprivileged account. That
account must be able to walk to its data and to the programs: every folder above them needs `x` for
it. `blocking_folder` finds the first one that does not let it through, so that one sentence can
name it.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from neolayer.errors import SettingsError

DEFAULT_ACCOUNT = "nobody"


class SpawnOptions(TypedDict, total=False):
    """The arguments of `subprocess` that change the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine to drop to."""

    name: str
    uid: int
    gid: int

    @property
    def spawn(self) -> SpawnOptions:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def account_for(run_as: str | None) -> Account | None:
    """The account PostgreSQL drops to, or None where we are not root and stay who we are.

    Raises SettingsError where the account is unknown or is root itself.
    """
    if os.geteuid() != 0:
        return None
    name = run_as or DEFAULT_ACCOUNT
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise SettingsError(
            f"setting 'run_as': this machine has no account {name!r}",
            hint="name an unprivileged account in run_as (NEOLAYER_RUN_AS)",
        ) from None
    if entry.pw_uid == 0:
        raise SettingsError("setting 'run_as': PostgreSQL does not run as root")
    return Account(name, entry.pw_uid, entry.pw_gid)


def spawn_options(account: Account | None) -> SpawnOptions:
    """What to pass to `subprocess` to run as `account`."""
    return account.spawn if account else {}


def give(path: Path, account: Account | None) -> None:
    """Make `path` the account's own; nothing to do where no account is dropped to."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def let_through(path: Path, account: Account | None) -> None:
    """Make our folder closed to all but us, and let `account` walk through it, no more.

    The folder stays ours: whoever owns a folder can rename what is in it, and would so choose what
    we write to.
    """
    mode = 0o700 if account is None else 0o710
    if account is not None:
        os.chown(path, os.geteuid(), account.gid)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def blocking_folder(path: Path, account: Account | None) -> Path | None:
    """The topmost folder above `path` that `account` cannot walk through; None: the way is free."""
    if account is None:
        return None
    for folder in reversed(path.resolve().parents):
        if folder.exists() and not may(folder, account, read=False, execute=True):
            return folder
    return None


def may(path: Path, account: Account, *, read: bool, execute: bool) -> bool:
    """Whether the permission bits of `path` give the account what is asked."""
    entry = path.stat()
    wanted = (0o4 if read else 0) | (0o1 if execute else 0)
    bits = stat.S_IMODE(entry.st_mode)
    if entry.st_uid == account.uid:
        bits >>= 6
    elif entry.st_gid == account.gid:
        bits >>= 3
    return bits & wanted == wanted
