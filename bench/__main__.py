"""`python -m bench [--long] [NAME...]`: measure, print, record; `--write-docs`: document."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence

from bench import document
from bench.claims import CLAIMS, SUBJECTS
from bench.harness import MACHINE, RESULTS, Plan, publish, record
from bench.machine import describe


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    if options.write_docs:
        document.write()
        return 0
    missed: list[str] = []
    for subject in options.subjects or SUBJECTS:
        missed += _run(subject, Plan(long=options.long))
    MACHINE.write_text(json.dumps(describe()), encoding="utf-8")
    print(f"recorded in {RESULTS}; missed bars: {', '.join(missed) or 'none'}", file=sys.stderr)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--long", action="store_true", help="more rounds, for claims")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md")
    parser.add_argument("subjects", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.subjects if name not in SUBJECTS]:
        parser.error(f"no bench called {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    return options


def _run(subject: str, plan: Plan) -> list[str]:
    """Run one subject, record what it yields as it comes; the names of missed bars."""
    print(f"{subject} ({'long' if plan.long else 'short'} form)", file=sys.stderr, flush=True)
    started = time.monotonic()
    missed: list[str] = []
    for figure in importlib.import_module(f"bench.{subject}").figures(plan):
        publish([figure])
        record([figure.line()])
        assert figure.bench in CLAIMS
        if figure.met is False:
            missed.append(figure.bench)
    print(f"{subject}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
