"""Add up what the runs of `make test-faults` noted, and print one line of JSON.

seeds: runs of their own; kills: processes that died by SIGKILL at a named point; lost, doubled:
what was not there at the end, or there twice.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

NOTED = Path(__file__).parent.parent / ".pytest_cache" / "v" / "faults"


def main() -> None:
    total: Counter[str] = Counter(seeds=0, kills=0, lost=0, doubled=0)
    for file in sorted(NOTED.iterdir()) if NOTED.exists() else ():
        total.update(json.loads(file.read_text(encoding="utf-8")))
    print(json.dumps(dict(total)))


main()
