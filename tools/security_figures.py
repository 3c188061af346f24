"""Add up what the runs of `make test-security` noted, and print one line of JSON.

cases: attacks tried; leaks: those that reached another tenant (with every guard in place);
mutants: guards taken away, one at a time; kills: those that some attack noticed.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

NOTED = Path(__file__).parent.parent / ".pytest_cache" / "v" / "security"


def main() -> None:
    total: Counter[str] = Counter(cases=0, leaks=0, mutants=0, kills=0)
    for file in NOTED.iterdir():
        total.update(json.loads(file.read_text(encoding="utf-8")))
    print(json.dumps(dict(total)))


main()
