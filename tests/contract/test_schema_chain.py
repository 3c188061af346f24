"""The chain tables refuse what the specification's own would have let in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role

Ingest = psycopg.Connection
HASH = "0x" + "ab" * 32
ACCOUNT = "0x" + "cd" * 20
NETWORK = """
INSERT INTO blockchain.networks (name, chain_id, network_type)
VALUES ('testnet', 1337, 'evm') RETURNING id
"""
INSERT = """
INSERT INTO blockchain.transactions (
    network_id, transaction_hash, from_address, block_timestamp, value
) VALUES (%s, %s, %s, %s, %s)
"""


def connect(endpoints: Endpoints, role: Role) -> Ingest:
    return psycopg.connect(endpoints.postgres.dsn(role, Database.CORE), autocommit=True)


@pytest.fixture
def ingest(module_databases: Endpoints) -> Iterator[Ingest]:
    """A session of the ingest role; what it writes is rolled back."""
    with (
        connect(module_databases, Role.INGEST) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


@pytest.fixture
def network(ingest: Ingest) -> UUID:
    row = ingest.execute(NETWORK).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def insert(ingest: Ingest, network: UUID) -> Callable[..., int]:
    def insert_one(
        transaction_hash: str = HASH,
        *,
        sender: str = ACCOUNT,
        at: str = "2026-01-02",
        value: object = 1,
        of: UUID = network,
    ) -> int:
        with ingest.transaction():
            return ingest.execute(INSERT, (of, transaction_hash, sender, at, value)).rowcount

    return insert_one


@pytest.mark.parametrize("value", ["NaN", "-1", str(2**256), str(10**78 - 1), "Infinity"])
def test_D_value_beyond_a_word_is_refused(insert: Callable[..., int], value: str) -> None:
    """Errata 21: -5, NaN and 10^78-1 went into NUMERIC(78, 0)."""
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange)):
        insert(value=value)


def test_D_the_largest_word_fits(insert: Callable[..., int]) -> None:
    """2^256-1 is a value that chains do carry."""
    assert insert(value=2**256 - 1) == 1


@pytest.mark.parametrize(
    "text",
    [HASH.upper(), "0X" + "ab" * 32, "ab" * 33, "0x" + "ab" * 31, "0x" + " " * 64, "0x" + "g" * 64],
)
def test_D_hash_has_one_form(insert: Callable[..., int], text: str) -> None:
    """Upper case, a missing 0x, a wrong length, blanks and other letters: no second spelling."""
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InvalidParameterValue)):
        insert(text)


@pytest.mark.parametrize(
    "text", ["0x" + "CD" * 20, "cd" * 21, "0x" + "cd" * 19, "N" + "0" * 33, ""]
)
def test_D_address_has_one_form(insert: Callable[..., int], text: str) -> None:
    """The checksummed spelling of an address is for people; stored is lower case."""
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(sender=text)


def test_D_neo_n3_address_keeps_its_case(insert: Callable[..., int]) -> None:
    """Base58 means nothing in lower case."""
    assert insert(sender="NikhQp1aAD1YFCiwknhM5LQQebj4464bCJ") == 1


def test_one_hash_once_also_across_years(insert: Callable[..., int]) -> None:
    """A unique key of a partitioned table cannot say this; the table of keys does."""
    insert(at="2026-01-02")
    with pytest.raises(psycopg.errors.UniqueViolation, match="transactions_hash_unique"):
        insert(at="2027-01-02")


def test_one_hash_once_also_under_concurrency(module_databases: Endpoints) -> None:
    """The second writer waits for the first and is then refused."""
    with (
        connect(module_databases, Role.INGEST) as first,
        connect(module_databases, Role.INGEST) as second,
    ):
        row = first.execute(NETWORK).fetchone()
        assert row is not None
        with first.transaction():
            first.execute(INSERT, (row[0], HASH, ACCOUNT, "2025-06-01", 1))
            second.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                second.execute(INSERT, (row[0], HASH, ACCOUNT, "2026-06-01", 1))
        with pytest.raises(psycopg.errors.UniqueViolation):
            second.execute(INSERT, (row[0], HASH, ACCOUNT, "2026-06-01", 1))
        second.execute("DELETE FROM blockchain.transactions")
        second.execute("DELETE FROM blockchain.networks")


def test_a_deleted_transaction_may_come_back(insert: Callable[..., int], ingest: Ingest) -> None:
    """A reorganisation deletes and inserts again."""
    insert()
    assert ingest.execute("DELETE FROM blockchain.transactions").rowcount == 1
    assert insert(at="2027-01-02") == 1


def test_key_cannot_change(insert: Callable[..., int], ingest: Ingest) -> None:
    """Otherwise the table of keys would speak of another row."""
    insert()
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused"):
        ingest.execute("UPDATE blockchain.transactions SET transaction_hash = '0x'")


def test_network_must_exist_and_stays(insert: Callable[..., int], ingest: Ingest) -> None:
    """What a foreign key would say, both ways."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        insert(of=uuid4())
    insert()
    for statement in (
        "DELETE FROM blockchain.networks",
        "UPDATE blockchain.networks SET id = gen_random_uuid()",
    ):
        with (
            pytest.raises(psycopg.errors.ForeignKeyViolation, match="still has transactions"),
            ingest.transaction(),
        ):
            ingest.execute(statement)


def test_a_year_is_made_on_demand_and_takes_what_waited(
    insert: Callable[..., int], ingest: Ingest
) -> None:
    """Rows of a year that nobody made lie in the default partition, counted, until it is made."""
    insert(at="2019-05-01")
    alarm = "SELECT row_count FROM blockchain.default_partition_rows ORDER BY 1 DESC"
    assert ingest.execute(alarm).fetchone() == (1,)
    ensure = "SELECT blockchain.ensure_partitions('2019-05-01', '2019-05-02')"
    assert ingest.execute(ensure).fetchone() == (2,)
    assert ingest.execute(ensure).fetchone() == (0,)
    assert ingest.execute(alarm).fetchone() == (0,)
    row = ingest.execute("SELECT tableoid::regclass::text FROM blockchain.transactions").fetchone()
    assert row == ("blockchain.transactions_2019",)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(at="2026-01-02")


def test_two_makers_of_one_year(module_databases: Endpoints) -> None:
    """The second waits for the first, then finds the year made."""
    ensure = "SELECT blockchain.ensure_partitions('2017-05-01', '2017-05-02')"
    waiting = "SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = %s AND NOT granted"
    with (
        connect(module_databases, Role.INGEST) as first,
        connect(module_databases, Role.INGEST) as second,
        ThreadPoolExecutor(1) as thread,
    ):
        with first.transaction():
            assert first.execute(ensure).fetchone() == (2,)
            run = thread.submit(lambda: second.execute(ensure).fetchone())
            pid = second.info.backend_pid
            while first.execute(waiting, (pid,)).fetchone() == (0,):
                assert not run.done()
        assert run.result() == (0,)


def test_every_partition_gives_the_relay_whole_rows(ingest: Ingest) -> None:
    """REPLICA IDENTITY FULL is not inherited, so each partition must be given it."""
    ingest.execute("SELECT blockchain.ensure_partitions('2018-01-01', '2018-01-01')")
    rows = ingest.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
        " WHERE inhparent = 'blockchain.transactions'::regclass AND relreplident <> 'f'"
    ).fetchall()
    assert rows == []


@pytest.mark.parametrize(
    "parent", ["blockchain.transactions", "blockchain.logs", "core.tenant_data"]
)
def test_C14_a_partition_is_not_emptied_by_its_own_name(
    module_databases: Endpoints, parent: str
) -> None:
    """No copy would be told of it: refused on every partition, also on one that was just made, and
    also to a superuser. Under the parent's name all may go, which every copy is told of."""
    with connect(module_databases, Role.ADMIN) as admin:
        admin.execute("SELECT blockchain.ensure_partitions('2016-01-01', '2016-01-01')")
        parts = admin.execute(
            "SELECT relid::regclass::text FROM pg_partition_tree(%s::regclass) WHERE isleaf",
            (parent,),
        ).fetchall()
        if parent.startswith("blockchain"):
            assert {(f"{parent}_2016",), (f"{parent}_default",)} < set(parts)
        assert len(parts) >= 3
        for (part,) in parts:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
                admin.execute(f"TRUNCATE {part}")  # type: ignore[arg-type]
            assert refused.value.diag.message_hint == (
                "no copy would be told of it; delete rows instead"
            )
        if parent != "blockchain.transactions":
            with admin.transaction(force_rollback=True):
                admin.execute(f"TRUNCATE {parent}")  # type: ignore[arg-type]


def test_confirmations_are_counted_from_the_head(
    insert: Callable[..., int], ingest: Ingest, network: UUID
) -> None:
    """The stored count stays 0 until the block is final; answers do not."""
    insert()
    ingest.execute("UPDATE blockchain.transactions SET status = 'confirmed', block_number = 10")
    ingest.execute(
        "INSERT INTO blockchain.chain_heads (network_id, head_number) VALUES (%s, 12)", (network,)
    )
    current = "SELECT confirmation_count FROM blockchain.transactions_current"
    assert ingest.execute(current).fetchone() == (3,)
    ingest.execute("UPDATE blockchain.chain_heads SET head_number = 9")
    assert ingest.execute(current).fetchone() == (0,)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://x", "https://", "https://a b", "javascript:alert(1)"]
)
def test_D_endpoint_url_has_an_allowed_scheme(ingest: Ingest, url: str) -> None:
    """Errata 28: anything went into rpc_endpoint."""
    with pytest.raises(psycopg.errors.CheckViolation):
        ingest.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type, rpc_endpoint)"
            " VALUES ('other', 5, 'evm', %s)",
            (url,),
        )
