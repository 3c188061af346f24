"""The main job as a user runs it: `neolayer demo`, `ingest --wait` and `query`, in processes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.fix_postgres import traversable_folder
from tests.fixtures.fix_rpc import PlayedNode
from tests.fixtures.shared_data import REPOSITORY, shared_data

from neolayer import open as open_layer
from neolayer.chain.networks import SYNTHETIC
from neolayer.chain.synthetic import make_chain
from neolayer.engines.endpoints import Role
from neolayer.platform import endpoints
from neolayer.settings import load_settings

Run = subprocess.CompletedProcess[str]


def neolayer(folder: Path, *arguments: str, stdin: str | None = None, **variables: str) -> Run:
    command = (sys.executable, "-m", "neolayer", *arguments, "--data-dir", str(folder / "layer"))
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=False,
        env={**os.environ, **variables},
    )


@contextmanager
def layer() -> Iterator[Path]:
    """The folder of a fresh layer that runs for the block, and nothing of which runs after it."""
    with traversable_folder() as path:
        up = neolayer(path, "up", "--detach")
        assert up.returncode == 0, up.stderr
        yield path
        neolayer(path, "down")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A layer that runs for the tests of this file."""
    with layer() as path:
        yield path


def facts(run: Run) -> dict[str, object]:
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


def test_the_demonstration_lands_everywhere_and_twice_is_once(folder: Path) -> None:
    """A made chain with a reorganisation: both stores agree, and a second run adds nothing."""
    first = facts(neolayer(folder, "demo", "--json"))
    assert first["agrees"] is True
    assert first["orphaned"] == 3
    assert first["contracts"]
    again = facts(neolayer(folder, "demo", "--json"))
    assert (again["blocks"], again["skipped"], again["agrees"]) == (0, 60, True)
    assert again["figures"] == first["figures"]


def test_the_front_page_is_true_after_the_demonstration() -> None:
    """What the README says to try next works as it stands there, on a layer that has seen nothing
    but `demo`."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = readme.partition("## Use it")[2].split("```")[1]
    lines = [line.partition("  #")[0] for line in block.splitlines() if line.startswith("neolayer")]
    password = "nobody else would think of this one"
    with layer() as folder:
        facts(neolayer(folder, "demo", "--json"))
        for line in lines:
            words = shlex.split(line)[1:]
            run = neolayer(folder, *words, stdin=password if words[0] == "users" else None)
            assert run.returncode == 0, (line, run.stderr)
    assert [shlex.split(line)[1] for line in lines][-2:] == ["status", "down"]


def test_the_demonstration_takes_the_last_blocks_of_a_node(played_node: PlayedNode) -> None:
    """`demo --rpc` brings a layer up, takes a node's last hundred blocks in, and stops it."""
    chain = make_chain(blocks=110, transactions_per_block=2)
    played_node.chain_id = SYNTHETIC.chain_id
    played_node.serve((mined.block, mined.receipts) for mined in chain.first)
    named = ("--network", "synthetic", "--chain-id", str(SYNTHETIC.chain_id))
    with traversable_folder() as path:
        found = facts(neolayer(path, "demo", "--rpc", played_node.url, *named, "--json"))
        assert (found["blocks"], found["transactions"]) == (100, 200)
        assert found["agrees"] is True
        assert found["refused"] == []
        assert neolayer(path, "down").stderr.startswith("No layer was running")


def test_real_blocks_come_in_once_and_are_equal_in_both_stores(folder: Path) -> None:
    """Every real JSON block is taken, verified; PostgreSQL and ClickHouse answer alike."""
    names = ("mainnet-contiguous", "mainnet-eras", "mainnet-with-receipts")
    folders = [str(shared_data("data", "chain", name)) for name in names]
    ingest = ("ingest", *folders, "--network", "ethereum", "--wait", "--json")
    assert facts(neolayer(folder, *ingest))["blocks"] == 16
    assert facts(neolayer(folder, *ingest))["skipped"] == 16
    measures = "count(*) AS n, sum(value) AS wei, sum(gas_limit) AS gas FROM"
    mine = "network_id = (SELECT id FROM blockchain.networks WHERE name = 'ethereum')"
    theirs = "network_id = (SELECT id FROM networks WHERE name = 'ethereum')"
    core = f"SELECT {measures} blockchain.transactions WHERE {mine}"
    analytics = f"SELECT {measures} transactions WHERE {theirs}"
    ours = json.loads(neolayer(folder, "query", "core", core, "--json").stdout)
    copy = json.loads(neolayer(folder, "query", "analytics", analytics, "--json").stdout)
    assert ours[0]["n"] == copy[0]["n"] == 2181
    assert ours[0]["wei"] == copy[0]["wei"]
    assert int(ours[0]["gas"]) == int(copy[0]["gas"])


@pytest.mark.parametrize("verb", ("reconcile", "relay status", "query core 'SELECT 1'"))
def test_a_reader_who_goes_ends_a_command_quietly(folder: Path, verb: str) -> None:
    """As `neolayer reconcile | head -1` does: nothing is left open behind a broken pipe."""
    command = f"{shlex.quote(sys.executable)} -m neolayer {verb} --data-dir layer | true"
    run = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("target", "statement", "reason"),
    [
        ("core", "CREATE TABLE x (a int)", "read-only"),
        ("core", "SELECT 1; SELECT 2", "multiple commands"),
        ("core", "SELECT * FROM core.context_secrets", "permission denied"),
        ("core", "SELECT password_hash FROM auth.users", "permission denied"),
        ("core", "SELECT token_hash FROM auth.sessions", "permission denied"),
        ("core", "SELECT encrypted_private_key FROM blockchain.wallets", "permission denied"),
        ("core", "SELECT sealed_blob FROM enclave.sealed_data", "permission denied"),
        ("core", "SELECT 1 AS a, 2 AS a", "two columns"),
        ("analytics", "DROP TABLE blocks", "readonly"),
        ("analytics", "SELECT * FROM file('/etc/passwd', 'LineAsString')", ""),
        ("analytics", "nonsense", "Syntax error"),
    ],
)
def test_a_query_can_only_read(folder: Path, target: str, statement: str, reason: str) -> None:
    """What writes, escapes or is no SQL is one error line, nothing on stdout, no traceback."""
    run = neolayer(folder, "query", target, statement, "--json")
    assert run.returncode != 0
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert reason in run.stderr
    assert "Traceback" not in run.stderr


def test_a_tampered_file_is_refused_and_the_rest_goes_in(folder: Path) -> None:
    """Exit code 1 and the file's name; the good block of the same folder is stored."""
    blocks = folder / "blocks"
    blocks.mkdir()
    source = shared_data("data", "chain", "mainnet-contiguous", "22431082.json")
    block = json.loads(source.read_bytes())
    block["transactions"][0]["value"] = "0x1"
    (blocks / "bad.json").write_text(json.dumps(block))
    (blocks / "good.json").write_bytes(source.read_bytes())
    run = neolayer(folder, "ingest", str(blocks), "--network", "other", "--chain-id", "2", "--json")
    assert run.returncode == 1
    assert "signed for chain 1" in run.stderr
    run = neolayer(folder, "ingest", str(blocks), "--network", "ethereum", "--json")
    assert run.returncode == 1
    assert "bad.json: block 22431082: transaction 0 does not hash to" in run.stderr
    assert json.loads(run.stdout)["skipped"] + json.loads(run.stdout)["blocks"] == 1


def test_a_run_that_takes_nothing_in_leaves_no_network(folder: Path) -> None:
    """A mistaken chain id does not stick to a name under which nothing was stored."""
    junk = folder / "junk.jsonl"
    junk.write_text('{"no": "block"}\n' * 30)
    for command in (("ingest", str(junk)), ("demo", "--blocks", str(junk))):
        for chain_id in ("99", "98"):
            named = ("--network", "foo", "--chain-id", chain_id)
            run = neolayer(folder, *command, *named)
            assert run.returncode == 1, run.stderr
            assert "junk.jsonl:1: neither a block nor a receipt" in run.stderr
    names = "SELECT name FROM blockchain.networks WHERE name = 'foo'"
    assert facts(neolayer(folder, "query", "core", names, "--json")) == []


def test_a_followed_network_is_known_once_its_node_is(
    folder: Path, played_node: PlayedNode
) -> None:
    """A node of another chain leaves no network behind; the right one is followed from nothing."""
    played_node.chain_id = 4242
    chain = make_chain(blocks=12, transactions_per_block=0)  # signed for no chain, so of any
    played_node.serve((mined.block, mined.receipts) for mined in chain.first)
    follow = ("ingest", "--rpc", played_node.url, "--follow", "--from", "1", "--to", "12")
    named = ("--network", "followed", "--chain-id")
    wrong = neolayer(folder, *follow, *named, "98")
    assert wrong.returncode == 1
    assert "chain id 4242, not 98" in wrong.stderr
    assert facts(neolayer(folder, *follow, *named, "4242", "--json"))["blocks"] == 12


def test_many_refusals_are_told_by_reason(folder: Path) -> None:
    """Words for people stay short; --json lists each, and the exit code is the same."""
    junk = folder / "junk.jsonl"
    junk.write_text('{"no": "block"}\n' * 30)
    run = neolayer(folder, "ingest", str(junk), "--network", "ethereum", "--json")
    assert run.returncode == 1
    told = run.stderr.splitlines()
    assert told[0].endswith("junk.jsonl:1: neither a block nor a receipt (30 such)")
    assert len(told) == 2
    assert len(json.loads(run.stdout)["refused"]) == 30


async def test_the_python_face_reads_what_was_taken_in(folder: Path) -> None:
    """`neolayer.open` answers a transaction, with confirmations that count from the head."""
    source = shared_data("data", "chain", "mainnet-contiguous", "22431082.json")
    run = neolayer(folder, "ingest", str(source), "--network", "ethereum", "--json")
    assert run.returncode == 0, run.stderr
    block = json.loads(source.read_bytes())
    expected = block["transactions"][0]
    async with open_layer(data_dir=folder / "layer") as platform:
        for _ in range(2):  # from PostgreSQL, then from the cache
            found = await platform.chain.transaction("ethereum", expected["hash"])
            assert found is not None
            assert found.value == int(expected["value"], 16)
            assert found.confirmation_count >= 1
        assert await platform.chain.transaction("ethereum", "0x" + "00" * 32) is None
        stored = await platform.chain.block("ethereum", 22431082)
        assert stored is not None
        assert stored.block_hash == block["hash"]
        (coverage,) = [c for c in await platform.chain.coverage() if c.network == "ethereum"]
        assert any(first <= 22431082 <= last for first, last in coverage.covered)


def test_a_query_as_a_tenant_sees_that_tenant_only(folder: Path) -> None:
    """Under --tenant row-level security holds; the chain is public; an unknown one is refused."""
    at = endpoints(load_settings(data_dir=folder / "layer"))
    with psycopg.connect(at.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        for name in ("acme", "other"):
            admin.execute(
                "INSERT INTO core.tenants (name, identifier) VALUES (%s, %s)"
                " ON CONFLICT DO NOTHING",
                (name.title(), name),
            )
    everyone = "SELECT identifier FROM core.tenants ORDER BY 1"
    as_acme = neolayer(folder, "query", "core", everyone, "--tenant", "acme", "--json")
    assert json.loads(as_acme.stdout) == [{"identifier": "acme"}]
    as_operator = neolayer(folder, "query", "core", everyone, "--json")
    assert {"identifier": "other"} in json.loads(as_operator.stdout)
    public = "SELECT count(*) AS n FROM blockchain.networks"
    chain = neolayer(folder, "query", "core", public, "--tenant", "acme", "--json")
    assert json.loads(chain.stdout)[0]["n"] >= 1
    unknown = neolayer(folder, "query", "core", public, "--tenant", "nobody", "--json")
    assert unknown.returncode != 0
    assert "no tenant 'nobody'" in unknown.stderr


def test_the_environment_does_not_steer_connections(folder: Path) -> None:
    """A proxy and libpq's variables are for others: loopback goes direct, the DSN alone decides."""
    hostile = {
        "http_proxy": "http://127.0.0.1:9",
        "PGHOSTADDR": "127.0.0.9",
        "PGSSLMODE": "require",
        "PGOPTIONS": "-c datestyle=German -c search_path=nowhere",
    }
    for target in ("core", "analytics"):
        run = neolayer(folder, "query", target, "SELECT 1 AS n", "--json", **hostile)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout) == [{"n": 1}]


@pytest.mark.parametrize(
    ("target", "statement", "expected"),
    [
        ("analytics", "SELECT [toUInt256(1), 2] AS a", {"a": ["1", "2"]}),
        (
            "analytics",
            "SELECT map('k', toUInt256(7)) AS m, toInt64(5) AS n",
            {"m": {"k": "7"}, "n": 5},
        ),
        ("core", "SELECT 'infinity'::timestamptz AS t", {"t": "infinity"}),
        ("core", "SELECT 1::numeric AS n, 9223372036854775807 AS b", {"n": "1", "b": 2**63 - 1}),
    ],
)
def test_values_come_whole(
    folder: Path, target: str, statement: str, expected: dict[str, object]
) -> None:
    """Wide integers are strings wherever they stand; what Python cannot hold comes as text."""
    run = neolayer(folder, "query", target, statement, "--json")
    assert json.loads(run.stdout) == [expected], run.stderr


def test_text_in_a_table_is_text(folder: Path) -> None:
    """Brackets in stored text are no styling for the terminal."""
    run = neolayer(folder, "query", "core", "SELECT '[/red] [bold]x' AS t")
    assert run.returncode == 0, run.stderr
    assert "[/red] [bold]x" in run.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--network", "Foo Bar", "--chain-id", "5"),
        ("--network", "foo", "--chain-id", "-6"),
        ("--network", "foo", "--chain-id", "99999999999999999999"),
        ("--network", "ethereum", "--blocks-per-commit", "0"),
    ],
)
def test_odd_arguments_are_one_sentence_of_ours(folder: Path, arguments: tuple[str, ...]) -> None:
    """The rule that was broken, not the database's words."""
    run = neolayer(folder, "ingest", "x.json", *arguments)
    assert run.returncode != 0
    assert "postgres refused" not in run.stderr
    assert "Traceback" not in run.stderr


def test_deep_nesting_is_no_block(folder: Path) -> None:
    """A hundred thousand brackets are refused by name."""
    deep = folder / "deep"
    deep.mkdir()
    (deep / "deep.json").write_text("[" * 100_000)
    run = neolayer(folder, "ingest", str(deep), "--network", "ethereum")
    assert run.returncode == 1
    assert "deep.json" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_schema_that_is_behind_shows_and_heals(folder: Path) -> None:
    """`migrate down` past ClickHouse's tables says that only copies go; `status` shows it; `migrate
    up` and the relay bring all rows back."""
    before = facts(neolayer(folder, "demo", "--json"))
    down = neolayer(folder, "migrate", "down", "--to", "0019")
    assert down.returncode == 0, down.stderr
    assert "these are copies of what PostgreSQL has" in down.stderr
    status = json.loads(neolayer(folder, "status", "--json").stdout)
    (broken,) = [engine for engine in status["engines"] if engine["name"] == "clickhouse"]
    assert not broken["healthy"]
    assert "neolayer migrate up" in broken["detail"]
    assert neolayer(folder, "migrate", "up").returncode == 0
    source = shared_data("data", "chain", "mainnet-contiguous", "22431085.json")
    waited = ("ingest", str(source), "--network", "ethereum", "--wait", "--json")
    assert neolayer(folder, *waited).returncode == 0
    after = facts(neolayer(folder, "demo", "--json"))
    assert after["agrees"] is True
    assert after["figures"] == before["figures"]
