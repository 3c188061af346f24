"""Files that were made to hurt: each is one refusal that names it, and the rest is unharmed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.shared_data import shared_data

from neolayer.chain.model import BlockRows
from neolayer.chain.networks import PRESETS
from neolayer.chain.sources.files import find_files, read_blocks, total_bytes
from neolayer.errors import BadBlock, ChainError, SourceError

ETHEREUM, NEO = PRESETS["ethereum"], PRESETS["neo-n3"]
LEVELS = 100_000
DEEP = "[" * LEVELS + "]" * LEVELS


def real() -> str:
    return shared_data("data", "chain", "mainnet-contiguous", "22431084.json").read_text()


def with_field(block: str, value: str) -> str:
    """The block with a field that nobody knows, before all others."""
    return '{"unknown": ' + value + "," + block.lstrip().removeprefix("{")


def sorted_out(folder: Path, network: Any = ETHEREUM) -> tuple[list[BadBlock], list[BlockRows]]:
    found = list(read_blocks([folder], network=network, verify=True))
    bad = [item for item in found if isinstance(item, BadBlock)]
    return bad, [item for item in found if isinstance(item, BlockRows)]


@pytest.mark.parametrize(
    "hostile",
    [
        '{"a":' + DEEP + "}",
        DEEP,
        "[" * LEVELS,
        '{"a":' * LEVELS,
        '{"result":' * LEVELS + "1" + "}" * LEVELS,
        '{"cumulativeGasUsed": "0x1", "x": ' + DEEP + "}",
        '{"executions": ' + DEEP + ', "txid": "0x"}',
        '{"jsonrpc": "2.0", "id": ' + DEEP + ', "result": null}',
    ],
    ids=lambda text: repr(text[:30]),
)
@pytest.mark.parametrize("name", ["2-deep.json", "2-deep.jsonl"])
def test_a_value_nested_without_end(tmp_path: Path, name: str, hostile: str) -> None:
    """One refusal that names the file; those before and after it are read."""
    (tmp_path / "1-good.json").write_text(real())
    (tmp_path / name).write_text(hostile)
    (tmp_path / "3-good.json").write_text(real())
    bad, good = sorted_out(tmp_path)
    (only,) = bad
    assert name in only.message
    assert "nested too deeply" in only.message
    assert len(good) == 2


def test_a_real_block_with_a_field_nested_without_end(tmp_path: Path) -> None:
    """A block is refused for what hides in a field that nobody reads."""
    pretty, line = (json.dumps(json.loads(real()), indent=n) for n in (1, None))
    for number, block in enumerate((pretty, line)):
        (tmp_path / f"{number}.json").write_text(with_field(block, DEEP))
    (tmp_path / "2.json").write_text(real())
    bad, good = sorted_out(tmp_path)
    assert ["nested too deeply" in item.message for item in bad] == [True, True]
    assert len(good) == 1


def test_a_line_nested_without_end(tmp_path: Path) -> None:
    """In a file of lines only the line is refused, the first one too, whatever the file's name."""
    line = json.dumps(json.loads(real()))
    for name in ("a.jsonl", "b.json"):
        (tmp_path / name).write_text("\n".join([DEEP, line, with_field(line, DEEP), line]))
    bad, good = sorted_out(tmp_path)
    assert [item.message.split(": ")[0].rsplit("/")[-1] for item in bad] == [
        *("a.jsonl:1", "a.jsonl:3", "b.json:1", "b.json:3"),
    ]
    assert len(good) == 4


@pytest.mark.parametrize("levels", [300, 600, 1_500, LEVELS])
@pytest.mark.parametrize("field", ["signers", "attributes", "witnesses", "unknown", "nonce"])
def test_a_neo_block_nested_without_end(tmp_path: Path, field: str, levels: int) -> None:
    """Of a Neo N3 block some fields are kept as given, and read again: no depth breaks that."""
    cases = json.loads(shared_data("data", "chain", "neo", "RpcTestCases.json").read_text())
    block = next(c["Response"]["result"] for c in cases if c["Name"] == "getblockasync")
    marked = json.dumps({**block, "tx": [{**block["tx"][0], field: "HERE"}]})
    (tmp_path / "1.json").write_text(marked.replace('"HERE"', "[" * levels + "]" * levels))
    for verify in (True, False):
        for item in read_blocks([tmp_path], network=NEO, verify=verify):
            assert isinstance(item, BlockRows | BadBlock)


@pytest.mark.parametrize("levels", [300, 600, 1_500, LEVELS])
def test_an_application_log_nested_without_end(tmp_path: Path, levels: int) -> None:
    """The same of what a contract said."""
    cases = json.loads(shared_data("data", "chain", "neo", "RpcTestCases.json").read_text())
    block = next(c["Response"]["result"] for c in cases if c["Name"] == "getblockasync")
    state = "[" * levels + "]" * levels
    for number, tx in enumerate(block["tx"]):
        said = {"contract": "0x" + "1" * 40, "eventname": "x", "state": "HERE"}
        run = {"trigger": "Application", "vmstate": "HALT", "notifications": [said]}
        log = json.dumps({"txid": tx["hash"], "executions": [run]}).replace('"HERE"', state)
        (tmp_path / f"log-{number}.json").write_text(log)
    (tmp_path / "block.json").write_text(json.dumps(block))
    for item in read_blocks([tmp_path], network=NEO, verify=False):
        assert isinstance(item, BlockRows | BadBlock)


@pytest.mark.parametrize("name", ["a\x1b[2Jb.json", "a\nb.json", "a\u202eb.json", "a\udcffb.json"])
def test_a_file_name_cannot_steer_a_terminal(tmp_path: Path, name: str) -> None:
    """What a terminal would obey is shown as text; the origin itself stays what it is."""
    (tmp_path / name).write_text("nonsense")
    ((bad,), _) = sorted_out(tmp_path)
    assert bad.message.isprintable()
    assert bad.message.encode()
    assert repr(name)[2:-6] in bad.message
    assert bad.origin == str(tmp_path / name)
    with pytest.raises(ChainError) as caught:
        list(read_blocks([tmp_path / ("no-" + name)], network=ETHEREUM, verify=True))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("network", [ETHEREUM, NEO], ids=["evm", "neo"])
@pytest.mark.parametrize("named", ["folder", "file"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "socket", "loop"])
def test_what_is_no_file(tmp_path: Path, kind: str, named: str, network: Any) -> None:
    """A pipe that nobody writes, a device that never ends: one refusal each, and nothing is waited
    for; those beside it are read."""
    odd = tmp_path / "2-odd.json"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(odd))
    else:
        odd.symlink_to({"loop": odd, "device": "/dev/null"}.get(kind, "/dev/zero"))
    (tmp_path / "1.json").write_text(real())
    apart = named == "file" and kind != "loop"
    paths = [tmp_path / "1.json", odd] if apart else [tmp_path]
    total_bytes(find_files(paths))
    found = list(read_blocks(paths, network=network, verify=True))
    bad = found[-1]
    assert isinstance(bad, BadBlock)
    assert bad.origin == str(odd)
    assert bad.reason == (
        "Too many levels of symbolic links" if kind == "loop" else "is not a regular file"
    )
    assert isinstance(found[0], BlockRows if network is ETHEREUM else BadBlock)
    assert len(found) == 2


def test_a_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    """What is in it is read; it is no bad file itself."""
    (tmp_path / "blocks.json").mkdir()
    (tmp_path / "blocks.json" / "1.json").write_text(real())
    bad, good = sorted_out(tmp_path)
    assert (len(bad), len(good)) == (0, 1)


def test_a_folder_without_blocks_says_which_names_count(tmp_path: Path) -> None:
    """The hint lists the packed ones too."""
    (tmp_path / "blocks.txt").write_text(real())
    with pytest.raises(SourceError, match="no block files") as caught:
        find_files([tmp_path])
    for name in (".json", ".jsonl", ".ndjson", ".gz", ".zst"):
        assert name in (caught.value.hint or "")
