"""Writes docs/performance.md from the recorded figures; nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.claims import CLAIMS, Claim
from bench.harness import LATEST, MACHINE, read_lines

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"

_HEAD = """\
# Performance

Written by `python -m bench --write-docs` from the last run of each figure; run `make bench-long`.
Each figure compares us with a peer or a floor in the same run, in turns, because one machine
varies by 2x between runs: trust the ratios, not the absolute numbers. A ratio is written so that
more is better for us. *Met* means that the upper 90 % bound of the ratio reaches the bar; the
spread is (largest - smallest) / median of the rounds' ratios.
"""

_INPUT = """\
The input is synthetic: eight contiguous real Ethereum blocks (997 transactions of types 0 to 4,
calldata as on the chain) repeated over rising heights, with other nonces so that hashes differ,
and every hash and root computed again. PostgreSQL is the embedded one with the settings of
`neolayer up`, fsync on; each round starts on a fresh database. Starting an interpreter is not
measured on either side.
"""

_COLUMNS = ("figure", "ours", "peer", "ratio", "bar", "met", "rounds", "spread")


def write(path: Path = DOCUMENT) -> None:
    """Write the document from `results/latest.jsonl`. Raises SystemExit where nothing was run."""
    lines = read_lines(LATEST)
    if not lines or not MACHINE.exists():
        raise SystemExit("no results yet: run make bench-long first")
    machine = json.loads(MACHINE.read_text(encoding="utf-8"))
    path.write_text(document(lines, machine), encoding="utf-8")


def document(lines: Iterable[Mapping[str, object]], machine: Mapping[str, str]) -> str:
    """The whole document. Lines of figures we no longer claim are left out."""
    known = {str(line["bench"]): line for line in lines if line["bench"] in CLAIMS}
    ordered = [(claim, known[name]) for name, claim in CLAIMS.items() if name in known]
    parts = [_HEAD, _machine(machine), _INPUT, "## Figures\n", table(ordered)]
    parts += ["## What each means\n", _meanings(ordered)]
    if missed := _missed(ordered):
        parts += ["## Ratios below their bar, and why\n", missed]
    return "\n".join(parts)


def table(rows: Iterable[tuple[Claim, Mapping[str, object]]]) -> str:
    """The figures as a Markdown table."""
    head = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    return "\n".join([*head, *(_row(claim, line) for claim, line in rows)]) + "\n"


def _row(claim: Claim, line: Mapping[str, object]) -> str:
    peer = f"{number(line['peer'])} ({line['peer_name']})" if line["peer_name"] else ""
    met = {True: "yes", False: "**no**", None: ""}[line["met"]]  # type: ignore[index]
    cells = (
        *(claim.bench, f"{number(line['ours'])} {claim.unit}", peer, number(line["ratio"])),
        *(number(line["bar"]), met, str(line["rounds"]), number(line["spread"])),
    )
    return f"| {' | '.join(cells)} |"


def number(value: object) -> str:
    """A number for people: thousands in groups, small ones with three digits; '' for None."""
    if not isinstance(value, int | float):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _machine(machine: Mapping[str, str]) -> str:
    return "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".\n"


def _meanings(rows: Iterable[tuple[Claim, Mapping[str, object]]]) -> str:
    return "".join(f"- **{claim.bench}**: {claim.meaning}\n" for claim, _ in rows)


def _missed(rows: Iterable[tuple[Claim, Mapping[str, object]]]) -> str:
    """Also where the bounds reach the bar: who reads the ratio asks."""
    return "".join(_miss(claim, line) for claim, line in rows if _is_below(line))


def _is_below(line: Mapping[str, object]) -> bool:
    ratio, bar = line["ratio"], line["bar"]
    return isinstance(ratio, int | float) and isinstance(bar, int | float) and ratio < bar


def _miss(claim: Claim, line: Mapping[str, object]) -> str:
    why = [claim.note] if claim.note else []
    if line["met"]:
        why.append("The rounds differ by more than what is missing: the bounds reach the bar.")
    return f"- **{claim.bench}**: {' '.join(why) or 'not explained yet.'}\n"


def missing(lines: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """The claims that no recorded line speaks of."""
    known = {line["bench"] for line in lines}
    return (name for name in CLAIMS if name not in known)
