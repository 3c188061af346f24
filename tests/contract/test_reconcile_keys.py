"""Keys that no row of PostgreSQL can have: others wrote them into a copy; a repair ends them."""

from __future__ import annotations

import pytest
from tests.fixtures.fix_relay import RelayScene, clickhouse_statements
from tests.fixtures.patience import PATIENCE

from neolayer.catalogue import ClickHouseCopy, DataClass
from neolayer.freshness import Store
from neolayer.position import CURRENT_EPOCH
from neolayer.relay.comparing.report import Kind, TableReport
from neolayer.relay.comparing.stores import open_compared
from neolayer.relay.reconcile import reconcile_table
from neolayer.relay.snapshot import export_snapshot

FAR = 9_000_000_000_000_000_000
# The key's columns in PostgreSQL; a copy may hold them in wider types.
KEY = {"name": "text", "code": "int", "amount": "numeric(20, 2)", "owner": "uuid"}
ID = "7e0b2c1e-55a5-4cbb-8a39-0f3a30e3ad30"
NAMES = DataClass(
    name="names",
    database="neolayer",
    table="public.names",
    copies=(ClickHouseCopy("names", key=tuple(KEY), columns=(*KEY, "note")),),
)


async def names(scene: RelayScene) -> None:
    """A table whose key has a column of each kind, and its copy as texts; one row on both sides."""
    columns = ", ".join(f"{name} {kind}" for name, kind in KEY.items())
    scene.sql(
        f"CREATE TABLE names ({columns}, note text, PRIMARY KEY ({', '.join(KEY)}))",
        f"INSERT INTO names VALUES ('ann', 1, 2.50, '{ID}', 'n'), ('fffe', 1, 2.50, '{ID}', 'n')",
    )
    texts = ", ".join(f"{name} String" for name in KEY)
    await clickhouse_statements(
        scene.endpoints.clickhouse,
        f"CREATE TABLE names ({texts}, note Nullable(String), _version UInt64, _deleted UInt8)"
        f" ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY ({', '.join(KEY)})",
        f"INSERT INTO names VALUES ('ann', '1', '2.50', '{ID}', 'n', 1, 0),"
        f" ('fffe', '1', '2.50', '{ID}', 'n', 1, 0)",
    )


async def plant(scene: RelayScene, *, version: int = 1, **key: str) -> None:
    """A row of this key (expressions of ClickHouse's), the rest as of the row that is right."""
    right = {"name": "'ann'", "code": "'1'", "amount": "'2.50'", "owner": f"'{ID}'"}
    values = ", ".join((right | key).values())
    await clickhouse_statements(
        scene.endpoints.clickhouse, f"INSERT INTO names SELECT {values}, 'planted', {version}, 0"
    )


async def reconcile(scene: RelayScene, *, repair: bool = False) -> TableReport:
    async with open_compared(scene.endpoints, [NAMES], patience=PATIENCE) as stores:
        (clickhouse,) = stores
        return await reconcile_table(
            clickhouse,
            NAMES.table,
            "neolayer",
            lambda: export_snapshot(scene.dsn, epoch=CURRENT_EPOCH),
            repair=repair,
        )


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ({"name": r"'\0weird'"}, ("\0weird", "1", "2.50", ID)),
        ({"name": r"'tab\t \\ and \\N\nline'"}, ("tab\t \\ and \\N\nline", "1", "2.50", ID)),
        ({"name": "repeat('n', 100000)"}, ("n" * 100_000, "1", "2.50", ID)),
        ({"code": "'no number'"}, ("ann", "no number", "2.50", ID)),
        ({"code": "'2147483648'"}, ("ann", "2147483648", "2.50", ID)),
        ({"code": "''"}, ("ann", "", "2.50", ID)),
        ({"amount": "'1e'"}, ("ann", "1", "1e", ID)),
        ({"owner": f"'{ID}0'"}, ("ann", "1", "2.50", f"{ID}0")),
        ({"name": "unhex('FFFE')"}, (r"\xff\xfe", "1", "2.50", ID)),
        ({"name": "unhex('C3BCEDA08000')"}, ("ü\\xed\\xa0\\x80\0", "1", "2.50", ID)),
        ({"code": "unhex('31FF')"}, ("ann", r"1\xff", "2.50", ID)),
    ],
    ids=[
        *("NUL", "what a line of ours escapes", "a long one", "no number", "too large a number"),
        *("an empty number", "no numeric", "too long an identifier"),
        *("not UTF-8", "a surrogate and NUL", "bytes for a number"),
    ],
)
@pytest.mark.parametrize("version", [1, FAR], ids=["an old version", "one never committed"])
async def test_a_row_whose_key_cannot_be_in_postgresql_is_extra_and_goes(
    relay_scene: RelayScene, planted: dict[str, str], told: tuple[str, ...], version: int
) -> None:
    """It is named as what it is, removed by a repair, and its neighbours stay."""
    await names(relay_scene)
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await plant(relay_scene, version=version, **planted)
        kind = Kind.EXTRA if version == 1 else Kind.AHEAD
        found = await reconcile(relay_scene)
        assert [(one.kind, one.key) for one in found.differences] == [(kind, told)]
        repaired = await reconcile(relay_scene, repair=True)
        assert (repaired.total, repaired.repaired, repaired.left) == (1, 1, 0)
        assert (await reconcile(relay_scene)).total == 0
    assert await relay_scene.copied("SELECT name FROM names FINAL ORDER BY name") == [
        ("ann",),
        ("fffe",),
    ]


async def test_bytes_and_the_text_that_spells_them_are_two_keys(relay_scene: RelayScene) -> None:
    """The bytes FF FE, their digits and the latter's row: each is judged by itself, also where
    several of them are put right at once."""
    await names(relay_scene)
    async with relay_scene.relaying(relay_scene.clickhouse_sink()):
        await relay_scene.arrives(relay_scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await clickhouse_statements(
            relay_scene.endpoints.clickhouse,
            "ALTER TABLE names UPDATE note = 'altered' WHERE name = 'fffe'"
            " SETTINGS mutations_sync = 2",
        )
        for name in ("unhex('FFFE')", "unhex('FFFF')", "'FFFE'", r"'\0'"):
            await plant(relay_scene, name=name)
        report = await reconcile(relay_scene, repair=True)
        kinds = {one.key[0]: one.kind for one in report.differences}
        extra = dict.fromkeys((r"\xff\xfe", r"\xff\xff", "FFFE", "\0"), Kind.EXTRA)
        assert kinds == extra | {"fffe": Kind.DIFFERING}
        assert (report.repaired, report.left) == (5, 0)
        assert (await reconcile(relay_scene)).total == 0
