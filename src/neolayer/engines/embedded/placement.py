"""Where data and programs can lie when PostgreSQL runs as another account.

As root, PostgreSQL runs as an unprivileged account, which must be able to walk to its data and to
its programs. A home folder (0700) lets nobody through. Programs that lie behind one are copied
into the data directory. Data behind one goes elsewhere only where the user did not choose the
place; a chosen place is refused in one sentence.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from neolayer.engines.embedded.data_directory import unusable
from neolayer.engines.embedded.privileges import Account, blocking_folder, let_through, may
from neolayer.errors import DataDirectoryError

SYSTEM_FOLDER = Path("/var/lib/neolayer")


def place_data(
    path: Path, *, chosen: bool, account: Account | None, system_folder: Path = SYSTEM_FOLDER
) -> str | None:
    """See that the account can walk to `path`; what was done about it, or None.

    Raises DataDirectoryError where it cannot and the user chose the place.
    """
    blocked = blocking_folder(path, account)
    if blocked is None or account is None:
        return None
    if chosen or path.exists():
        raise DataDirectoryError(
            f"data directory {path}: the account {account.name!r}, which runs PostgreSQL, "
            f"cannot pass through {blocked}",
            hint=f"run: chmod o+x {blocked}, or choose another --data-dir or run_as",
        )
    target = system_folder / f"{path.parent.name or 'root'}-{_short_hash(path)}"
    _link(path, target, account)
    return (
        f"{blocked} cannot be passed by the account {account.name!r}, which runs PostgreSQL, "
        f"so the data lies in {target} and {path} points there."
    )


def _short_hash(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:8]


def _link(path: Path, target: Path, account: Account) -> None:
    try:
        target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        target.mkdir(mode=0o700, exist_ok=True)
        let_through(target, account)
        if path.is_symlink():
            path.unlink()  # it dangles: what it pointed to is gone
        path.symlink_to(target)
    except OSError as exc:
        raise unusable(path, exc) from exc


def reachable_programs(programs: Path, staging: Path, account: Account | None) -> Path:
    """A folder with PostgreSQL's programs that the account can run: theirs, or a copy in `staging`.

    `programs` is the `bin` folder of an installation; its neighbours are copied along.
    """
    if account is None or _usable(programs, account):
        return programs
    target = staging / programs.parent.name
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(programs.parent, target, symlinks=True)
        staging.chmod(0o755)
        _open_to_all(target)
        (target / "complete").touch()
    return target / programs.name


def _usable(programs: Path, account: Account) -> bool:
    server = programs / "postgres"
    sample = programs.parent / "share" / "postgresql.conf.sample"
    return (
        blocking_folder(server, account) is None
        and may(server, account, read=True, execute=True)
        and (not sample.exists() or may(sample, account, read=True, execute=False))
    )


def _open_to_all(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if path.is_dir() or mode & 0o100 else 0o044))
