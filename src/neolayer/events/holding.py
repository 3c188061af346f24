"""Who keeps the readers of events back: the oldest transaction that has written and does not end.

All events are read below the oldest running transaction of the cluster, whoever's it is and
whatever it writes (decisions 23 and 29). The application's own end by themselves after a while;
one of a person, of a backup or of a standby that does not confirm may not, so it is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries

sql = load_queries(__name__, "holding.sql")
PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Holding:
    """A transaction behind which events wait, the first of them for `waiting_s`.

    `pid` is None for a prepared one, whose `application` is then its name. `tenants` are those to
    whose streams it appends; `tables` what it writes in the event store's database.
    """

    pid: int | None
    application: str
    role: str
    database: str
    state: str
    waits_for: str | None
    open_s: float
    waiting_s: float
    tables: Sequence[str]
    tenants: Sequence[UUID]

    def __str__(self) -> str:
        return f"{self.told}: {self.remedy}"

    @property
    def told(self) -> str:
        """A sentence that names it."""
        who = f"prepared transaction {self.application!r}"
        if self.pid is not None:
            who = f"transaction of process {self.pid} ({self.application or 'unnamed'})"
        for_whom = f" for tenant {', '.join(map(str, self.tenants))}" if self.tenants else ""
        doing = self.state if self.waits_for is None else f"waiting for {self.waits_for}"
        return (
            f"Readers of events wait for the {who}, {self.role} in {self.database}{for_whom}:"
            f" open for {self.open_s:.0f} s, {doing}"
        )

    @property
    def remedy(self) -> str:
        """The statement that ends it."""
        if self.pid is None:
            name = self.application.replace("'", "''")  # whoever prepares one may call it anything
            return f"ROLLBACK PREPARED '{name}'"
        return f"SELECT pg_terminate_backend({self.pid})"


async def who_holds(at: Endpoints, *, patience_s: float = PATIENCE_S) -> Holding | None:
    """As the operator sees it; None where no event waits longer than that.

    Raises EngineUnavailable.
    """
    cluster = at.cluster(Database.EVENT_STORE)
    dsn = cluster.dsn(Role.OPERATOR, Database.EVENT_STORE)
    async with await connect(dsn, autocommit=True, application_name="status") as operator:
        row = await (await operator.execute(sql.holding)).fetchone()
    if row is None or row[7] < patience_s:
        return None
    *facts, hashes = row
    return Holding(*facts, tenants=await _tenants(at, hashes))


async def _tenants(at: Endpoints, hashes: Sequence[int]) -> tuple[UUID, ...]:
    if not hashes:
        return ()
    dsn = at.postgres.dsn(Role.OPERATOR)
    async with await connect(dsn, autocommit=True, application_name="status") as operator:
        rows = await operator.execute(sql.tenants_by_hash, {"hashes": list(hashes)})
        return tuple(row[0] for row in await rows.fetchall())
