"""What a person reads of refused blocks: names while they are few, reasons when they are many."""

from __future__ import annotations

from neolayer.cli.refusals import told
from neolayer.errors import BadBlock


def test_few_are_told_one_by_one() -> None:
    """Twenty refusals are twenty lines, each with file, block and reason."""
    bad = [BadBlock("has no hash", origin=f"{n}.json", block=n) for n in range(20)]
    assert told(bad) == [f"refused: {n}.json: block {n}: has no hash" for n in range(20)]
    assert told([]) == []


def test_many_are_told_by_reason() -> None:
    """Alike ones are one line with their number and the first by name; numbers and hashes in a
    reason do not make it another one."""
    junk = [BadBlock("no block", origin=f"{n % 3}.jsonl:{n}") for n in range(1, 500)]
    wrong = [
        BadBlock(f"transaction {n} does not hash to 0x{n:x}", origin="x.json", block=7)
        for n in range(2)
    ]
    alone = BadBlock("damaged", origin="y.json.gz")
    assert told([*junk, *wrong, alone]) == [
        "refused: 1.jsonl:1: no block (499 such, in 3 files)",
        "refused: x.json: block 7: transaction 0 does not hash to 0x0 (2 such)",
        "refused: y.json.gz: damaged",
        "refused: 502 in all; --json lists each",
    ]


def test_many_reasons_stay_readable() -> None:
    """However many reasons there are, the lines fit on a screen, and none is lost in the count."""
    words = ["alpha" + "x" * n for n in range(300)]
    lines = told([BadBlock(word, origin="x.json") for word in words])
    assert len(lines) == 12
    assert lines[-2] == "refused: 290 more, for 290 other reasons"
    assert lines[-1] == "refused: 300 in all; --json lists each"
