"""Write requirements.lock (what runs) and requirements-dev.lock (that, and what checks it).

Both hold hashes for every platform and no index address. Needs `uv`, which the dev lock brings.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILE = ("uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes")
QUIET = ("--no-emit-index-url", "--no-header", "--quiet", "--no-annotate")
TARGETS = {
    "requirements.lock": ("--extra", "embedded", "--extra", "wallets", "--group", "build"),
    "requirements-dev.lock": (
        *("--extra", "embedded", "--extra", "wallets"),
        *("--group", "build", "--group", "dev"),
    ),
}


def main() -> None:
    for target, what in TARGETS.items():
        command = (*COMPILE, *QUIET, *what, "pyproject.toml", "--output-file", target)
        subprocess.run((sys.executable, "-m", *command), cwd=ROOT, check=True)


main()
