"""`neolayer ingest --senders`, through the command line into a database: files, node, following."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from tests.fixtures.fix_rpc import PlayedNode

from neolayer.chain import follow as following
from neolayer.chain.sources import rpc as rpc_source
from neolayer.chain.synthetic import SyntheticChain, make_chain
from neolayer.cli import ingest as command
from neolayer.cli import main
from neolayer.engines.endpoints import Endpoints, Role

NETWORK = ("--network", "testnet", "--chain-id", "1337")
BAD = 4
Source = Callable[[SyntheticChain], tuple[str, ...]]


@pytest.fixture(scope="module")
def chain() -> SyntheticChain:
    return make_chain(blocks=6, transactions_per_block=5)


@pytest.fixture
def tampered(chain: SyntheticChain) -> tuple[SyntheticChain, str]:
    """The chain with one false `from`, in the transaction and its receipt, and the refusal."""
    changed = copy.deepcopy(chain)
    mined = changed.first[BAD - 1]
    index = next(n for n, each in enumerate(mined.block["transactions"]) if each["to"] is not None)
    item = mined.block["transactions"][index]
    true, false = item["from"], "0x" + "12" * 20
    item["from"] = mined.receipts[index]["from"] = false
    said = f"block {BAD}: transaction {index} says it is from {false}, but {true} signed it"
    return changed, said


@pytest.fixture(params=["files", "node", "follow"])
def source(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    played_node: PlayedNode,
    monkeypatch: pytest.MonkeyPatch,
) -> Source:
    """The arguments that take a chain in: from files, from a node, or by following one."""
    monkeypatch.setattr(rpc_source, "PATIENCE_ATTEMPTS", 1)
    monkeypatch.setattr(following, "MISFITS", 1)

    def given(chain: SyntheticChain) -> tuple[str, ...]:
        if request.param == "files":
            for number, mined in enumerate(chain.first, start=1):
                content = msgspec.json.encode(mined.block) + b"\n"
                content += b"\n".join(map(msgspec.json.encode, mined.receipts))
                (tmp_path / f"{number}.jsonl").write_bytes(content)
            return (str(tmp_path),)
        played_node.chain_id = 1337
        played_node.serve((mined.block, mined.receipts) for mined in chain.first)
        range_ = ("--rpc", played_node.url, "--from", "1", "--to", "6")
        return (*range_, "--follow") if request.param == "follow" else range_

    return given


@pytest.fixture
def run(layer_databases: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(command, "endpoints", lambda settings: layer_databases)

    def called(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(("ingest", *arguments, *NETWORK))
        return int(stopped.value.code or 0)

    return called


def stored(databases: Endpoints) -> list[int]:
    """The numbers of the blocks in the database."""
    with psycopg.connect(databases.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        rows: list[Any] = admin.execute("SELECT block_number FROM blockchain.blocks").fetchall()
    return sorted(number for (number,) in rows)


def test_true_senders_are_taken(
    source: Source, run: Callable[..., int], chain: SyntheticChain, layer_databases: Endpoints
) -> None:
    """With --senders a sound chain comes in as without."""
    assert run(*source(chain), "--senders") == 0
    assert stored(layer_databases) == [1, 2, 3, 4, 5, 6]


def test_a_false_sender_is_refused_where_asked_for(
    source: Source,
    run: Callable[..., int],
    tampered: tuple[SyntheticChain, str],
    layer_databases: Endpoints,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The flag reaches every source: the block is refused by name and nothing of it is stored."""
    changed, said = tampered
    assert run(*source(changed), "--senders") == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert BAD not in stored(layer_databases)


def test_not_asked_for_it_is_the_nodes_word(
    source: Source,
    run: Callable[..., int],
    tampered: tuple[SyntheticChain, str],
    layer_databases: Endpoints,
) -> None:
    """Why the flag exists: no hash covers `from`, so by default the same chain comes in whole."""
    assert run(*source(tampered[0])) == 0
    assert stored(layer_databases) == [1, 2, 3, 4, 5, 6]


def test_on_trust_and_from_signatures_contradict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--senders with --no-verify is one sentence and exit code 2, before anything is opened."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(("ingest", "x.json", *NETWORK, "--senders", "--no-verify"))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: --senders verifies and --no-verify does not; give one of them\n"
