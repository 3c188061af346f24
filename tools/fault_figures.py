"""Add up what the runs of `make test-faults` noted, and print one line of JSON.

seeds: runs of their own; kills: processes ended by SIGKILL, at a named point or, of those that
append events, anywhere; lost and doubled: what copies, read models and readers of all events then
missed or had too often; points: how many named points had a kill.
Fewer than promised is a failure, of each kind by itself: one that did not run noted nothing.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

NOTED = Path(__file__).parent.parent / ".pytest_cache" / "v" / "faults"
Figures = Mapping[str, float]

# Of all kinds together, and of each.
PROMISED: Figures = {"seeds": 500, "kills": 500}
OF_EACH: Mapping[str, Figures] = {
    "relay_points": {"seeds": 150, "kills": 150, "points": 12, "cached": 1},
    "projector_points": {"seeds": 500, "kills": 500, "points": 8},
    "projector": {"kills": 300},
    "order": {"seeds": 500},
    "order_kills": {"seeds": 60, "kills": 240},
    "simulation": {"simulated_hours": 2, "simulated_kills": 1_000, "simulated_failovers": 10},
    "projector_simulation": {"projector_simulated_hours": 1, "projector_simulated_kills": 50},
    "mutants": {"mutants": 41},
}


def missing(noted: Mapping[str, Figures]) -> list[str]:
    """What was promised and is not there; what was lost or doubled."""
    total: Counter[str] = Counter()
    for figures in noted.values():
        total.update(figures)  # type: ignore[arg-type]
    wanted = {"all": PROMISED, **OF_EACH}
    found = {"all": total, **noted}
    told = [
        f"{kind}: {found.get(kind, {}).get(name, 0)} {name} of {least}"
        for kind, figures in wanted.items()
        for name, least in figures.items()
        if found.get(kind, {}).get(name, 0) < least
    ]
    return told + [f"{total[name]} {name}" for name in ("lost", "doubled") if total[name]]


def main() -> int:
    files = sorted(NOTED.iterdir()) if NOTED.exists() else []
    noted = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    total: Counter[str] = Counter(seeds=0, kills=0, lost=0, doubled=0)
    for figures in noted.values():
        total.update(figures)
    wrong = missing(noted)
    for line in wrong:
        print(line, file=sys.stderr)
    print(json.dumps(dict(total)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
