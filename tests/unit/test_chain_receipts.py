"""Receipts in files: whose they are is checked, and a wrong one is refused by its own file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neolayer.chain.model import BlockRows
from neolayer.chain.networks import SYNTHETIC
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.synthetic import make_chain
from neolayer.errors import BadBlock

Json = dict[str, Any]
FIRST, SECOND = make_chain(blocks=2, transactions_per_block=3).first
HASH = "0x" + "77" * 32


def read(
    folder: Path, files: dict[str, Any], *, verify: bool = True
) -> tuple[list[BlockRows], list[BadBlock]]:
    for name, content in files.items():
        lines = name.endswith("jsonl")
        text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
        (folder / name).write_text(text)
    found = list(read_blocks([folder], network=SYNTHETIC, verify=verify))
    good = [item for item in found if isinstance(item, BlockRows)]
    return good, [item for item in found if isinstance(item, BadBlock)]


def changed(receipt: Json, **fields: Any) -> Json:
    return {**copy.deepcopy(receipt), **fields}


# One receipt beside the genuine ones that is not what it says, and what is said of it.
FOREIGN: dict[str, tuple[Json, str]] = {
    "of another transaction": (
        changed(FIRST.receipts[1], transactionHash=HASH),
        f"block 1: a receipt of transaction {HASH}, which is not at its place in the block",
    ),
    "of another place": (
        changed(FIRST.receipts[1], transactionIndex="0x2"),
        f"block 1: a receipt of transaction {FIRST.receipts[1]['transactionHash']}, which is not",
    ),
    "without a place": (
        changed(FIRST.receipts[1], transactionIndex="zz"),
        f"block 1: a receipt of transaction {FIRST.receipts[1]['transactionHash']}, which is not",
    ),
    "of another block": (
        changed(FIRST.receipts[1], blockHash=HASH),
        f"names block {HASH}, but another block holds it",
    ),
    "with another outcome": (
        changed(FIRST.receipts[1], status="0x0"),
        "block 1: another receipt of transaction 1 than",
    ),
    "with other gas": (
        changed(FIRST.receipts[1], gasUsed="0x1"),
        "block 1: another receipt of transaction 1 than",
    ),
    "unreadable": (
        changed(FIRST.receipts[1], logs=7),
        "block 1: another receipt of transaction 1 than",
    ),
}


@pytest.mark.parametrize("name", ["0-odd.json", "9-odd.json"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_wrong_receipt_beside_the_right_ones(tmp_path: Path, what: str, name: str) -> None:
    """It is refused by its own file, whether read before or after the others; the block has its
    receipts, and its neighbour is unharmed."""
    odd, reason = FOREIGN[what]
    files = {"1.json": FIRST.block, "2.jsonl": FIRST.receipts, "3.json": SECOND.block}
    good, bad = read(tmp_path, {**files, "4.json": SECOND.receipts, name: odd})
    assert [(block.number, block.block[-1]) for block in good] == [(1, "receipts"), (2, "receipts")]
    assert good[0].logs is not None
    (only,) = bad
    assert only.origin == str(tmp_path / name)
    assert reason in only.message


def test_several_wrong_receipts_of_one_file(tmp_path: Path) -> None:
    """A file that is wrong about many transactions is left out as a whole."""
    odd = [changed(each, status="0x0") for each in FIRST.receipts[:2]]
    for name in ("0-odd.jsonl", "9-odd.jsonl"):
        folder = tmp_path / name.removesuffix(".jsonl")
        folder.mkdir()
        files = {"1.json": FIRST.block, "2.json": FIRST.receipts, name: odd}
        good, bad = read(folder, files)
        assert [block.block[-1] for block in good] == ["receipts"]
        assert [each.origin for each in bad] == [f"{folder / name}:{line}" for line in (1, 2)]


def test_only_a_foreign_receipt(tmp_path: Path) -> None:
    """The block is as one without receipts; the stranger is refused."""
    odd, _ = FOREIGN["of another transaction"]
    good, bad = read(tmp_path, {"1.json": FIRST.block, "2.json": odd})
    assert [block.block[-1] for block in good] == ["transactions"]
    assert [each.origin for each in bad] == [str(tmp_path / "2.json")]


def test_the_same_receipts_twice(tmp_path: Path) -> None:
    """Written in another way they are no contradiction."""
    again = [dict(reversed(each.items())) for each in FIRST.receipts]
    good, bad = read(tmp_path, {"1.json": FIRST.block, "2.json": FIRST.receipts, "3.json": again})
    assert ([block.block[-1] for block in good], bad) == (["receipts"], [])


def test_receipts_of_blocks_that_are_not_there(tmp_path: Path) -> None:
    """A folder of receipts may hold more than the blocks that are asked for."""
    files = {"1.json": FIRST.block, "2.json": FIRST.receipts, "3.json": SECOND.receipts}
    good, bad = read(tmp_path, files)
    assert ([block.number for block in good], bad) == ([1], [])


Spoil = Callable[[list[Json]], Any]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "status": (lambda r: r[1].update(status="0x0"), "receiptsRoot is"),
    "gas": (lambda r: r[1].update(gasUsed="0x1"), "receipt 1: gasUsed does not fit"),
    "one missing": (lambda r: r.pop(1), "3 transactions but 2 receipts"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_receipts_that_are_wrong_without_others(tmp_path: Path, what: str) -> None:
    """Where the block itself is right, the file that is named is the receipts'."""
    spoil, reason = SPOILT[what]
    receipts = copy.deepcopy(FIRST.receipts)
    spoil(receipts)
    good, bad = read(tmp_path, {"1.json": FIRST.block, "2.json": receipts, "3.json": SECOND.block})
    assert [block.number for block in good] == [2]
    (only,) = bad
    assert only.message.startswith(f"{tmp_path / '2.json'}: block 1: {reason}")


def test_a_receipt_that_is_missed_where_it_names_another_block(tmp_path: Path) -> None:
    """The block lacks it, and both files are named."""
    receipts = copy.deepcopy(FIRST.receipts)
    receipts[1]["blockHash"] = HASH
    files = {"1.json": FIRST.block, "2.json": receipts[::2], "3.json": receipts[1]}
    good, bad = read(tmp_path, files)
    assert good == []
    lacks, stray = bad
    assert "3 transactions but 2 receipts" in lacks.message
    assert stray.origin == str(tmp_path / "3.json")
    assert f"names block {HASH}" in stray.message


def test_a_wrong_block_is_named_itself(tmp_path: Path) -> None:
    """Where the block is wrong too, nothing is said against its receipts."""
    block = changed(FIRST.block, transactionsRoot=HASH)
    good, bad = read(tmp_path, {"1.json": block, "2.json": FIRST.receipts})
    assert good == []
    (only,) = bad
    assert only.message.startswith(f"{tmp_path / '1.json'}: block 1: transactionsRoot is")
