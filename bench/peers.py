"""The peers' own virtual environments: made once, from pinned versions, away from ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).with_name("requirements.txt")
PGSYNC = Path(__file__).with_name("requirements-pgsync.txt")
DEFAULT_FOLDER = Path(__file__).with_name(".venv")


def peer_python(requirements: Path = PEERS) -> Path:
    """The interpreter with these peers installed; installs them where they are not yet.

    `BENCH_VENV` names another folder, in which each file of requirements has its own. The
    stamp holds a digest of the requirements, so a changed pin makes the environment anew.
    """
    chosen = Path(os.environ.get("BENCH_VENV", DEFAULT_FOLDER))
    folder = chosen / requirements.stem
    python, stamp = folder / "bin" / "python", folder / "requirements.digest"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="ascii") != digest:
        print(f"installing the peers of {requirements.name} (once)", file=sys.stderr, flush=True)
        _clear(folder, stamp)
        base = Path(sys.base_prefix) / "bin" / "python3"
        subprocess.run([base, "-m", "venv", folder], check=True)
        _pip_install(python, requirements)
        stamp.write_text(digest, encoding="ascii")
    return python


def _clear(folder: Path, stamp: Path) -> None:
    """Empty the folder, but only one that we made: it bears our stamp from the first moment."""
    if folder.exists() and not stamp.exists():
        raise SystemExit(f"{folder} is not ours to replace; name another in BENCH_VENV")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stamp.write_text("unfinished", encoding="ascii")


def _pip_install(python: Path, requirements: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check"]
    argv = [python, "-m", "pip", "install", *options, "-r", requirements]
    subprocess.run(argv, check=True, stdout=sys.stderr)
