"""Rounds, figures and the lines they end in.

A contender is a callable that runs once and says how much it did or how long it took. `rounds`
calls all contenders in turn, so that neighbours in time are compared; `compare` makes a figure of
two of them. A ratio is always written so that more is better for us.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.claims import AIM, CLAIMS
from bench.interval import Summary, summarise

RESULTS = Path(__file__).parent / "results"
LATEST = RESULTS / "latest.jsonl"
ROUNDS = RESULTS / "rounds.jsonl"
MACHINE = RESULTS / "machine.json"

Contender = Callable[[], float]
Samples = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run may take: the short form is for every day, the long one for claims."""

    long: bool = False

    def pick(self, short: int, long: int) -> int:
        return long if self.long else short


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: medians of both sides, the ratio of their rounds, and its bar."""

    bench: str
    ours: float
    peer_name: str | None
    peer: float | None
    unit: str
    ratio: Summary | None
    bar: float | None
    rounds: int

    @property
    def met(self) -> bool | None:
        """Whether the upper 90 % bound of the ratio reaches the bar; None without a bar."""
        if self.bar is None or self.ratio is None:
            return None
        return self.ratio.upper >= self.bar

    def line(self) -> dict[str, object]:
        """The figure as `latest.jsonl` holds it."""
        return {
            "bench": self.bench,
            "ours": _rounded(self.ours),
            "peer_name": self.peer_name,
            "peer": _rounded(self.peer),
            "unit": self.unit,
            "ratio": _rounded(self.ratio.ratio) if self.ratio else None,
            "bar": self.bar,
            "met": self.met,
            "rounds": self.rounds,
            "spread": _rounded(self.ratio.spread) if self.ratio else None,
        }

    def sentence(self) -> str:
        """The figure for people, with both bounds."""
        text = f"{self.bench}: {_short(self.ours)} {self.unit}"
        if self.peer is None or self.ratio is None:
            return text
        ratio = self.ratio
        text += f", {self.peer_name} {_short(self.peer)}, ratio {ratio.ratio:.2f}"
        text += f" (90 % bounds {ratio.lower:.2f} to {ratio.upper:.2f}, {self.rounds} rounds)"
        if self.bar is None:
            return text
        return f"{text}, bar {self.bar:g}: {'met' if self.met else 'MISSED'}"


def rounds(contenders: Mapping[str, Contender], count: int, *, warm_up: bool = True) -> Samples:
    """Run all contenders in turn, `count` times; every other round in reverse order.

    A first round that does not count warms caches and imports.
    """
    samples: Samples = {name: [] for name in contenders}
    for number in range(-1 if warm_up else 0, count):
        names = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in names:
            value = contenders[name]()
            if number >= 0:
                samples[name].append(value)
        progress(f"  round {number + 1}/{count}")
    return samples


def compare(bench: str, samples: Samples, ours: str, peer: str) -> Figure:
    """The figure of two contenders of the same rounds. In the ratio more is always better."""
    claim = CLAIMS[bench]
    mine, theirs = samples[ours], samples[peer]
    pairs = [*zip(mine, theirs, strict=True)]
    ratios = [b / a if claim.less_is_better else a / b for a, b in pairs]
    return Figure(
        bench=bench,
        ours=statistics.median(mine),
        peer_name=peer,
        peer=statistics.median(theirs),
        unit=claim.unit,
        ratio=summarise(ratios),
        bar=claim.bar,
        rounds=len(mine),
    )


def difference(samples: Samples, more: str, less: str) -> list[float]:
    """What one contender costs beyond another, round by round."""
    return [a - b for a, b in zip(samples[more], samples[less], strict=True)]


def against_aim(bench: str, values: Sequence[float], *, aim: float) -> Figure:
    """A figure against a fixed aim."""
    return compare(bench, {"ours": list(values), AIM: [aim] * len(values)}, "ours", AIM)


def alone(bench: str, values: Sequence[float]) -> Figure:
    """A figure that stands for itself, without a peer."""
    unit = CLAIMS[bench].unit
    return Figure(bench, statistics.median(values), None, None, unit, None, None, len(values))


def publish(figures: Iterable[Figure]) -> list[Figure]:
    """Print each figure: words to stderr, its JSON line to stdout."""
    kept = list(figures)
    for figure in kept:
        progress(figure.sentence())
        print(json.dumps(figure.line()), flush=True)
    return kept


def record(lines: Iterable[Mapping[str, object]], path: Path = LATEST) -> None:
    """Put the lines into `path`, in place of older ones of the same `bench`."""
    new = {str(line["bench"]): dict(line) for line in lines}
    kept = [line for line in read_lines(path) if str(line["bench"]) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in [*kept, *new.values()])
    path.write_text(text, encoding="utf-8")


def read_lines(path: Path = LATEST) -> list[dict[str, object]]:
    """The recorded lines in order; none where nothing was run yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def progress(text: str) -> None:
    """Words for people go to stderr; stdout has the JSON lines and nothing else."""
    print(text, file=sys.stderr, flush=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
