"""Add up what the runs of `make test-faults` noted, and print one line of JSON.

seeds: runs of their own; kills: processes ended by SIGKILL at a named point; lost and doubled:
what copies and read models then missed or held too often. Fewer runs than promised are a failure.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

NOTED = Path(__file__).parent.parent / ".pytest_cache" / "v" / "faults"
PROMISED = 500


def main() -> int:
    total: Counter[str] = Counter(seeds=0, kills=0, lost=0, doubled=0)
    for file in sorted(NOTED.iterdir()) if NOTED.exists() else ():
        total.update(json.loads(file.read_text(encoding="utf-8")))
    print(json.dumps(dict(total)))
    kept = total["lost"] == total["doubled"] == 0
    return 0 if kept and min(total["seeds"], total["kills"]) >= PROMISED else 1


sys.exit(main())
