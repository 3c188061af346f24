"""Searches that use an index although row security holds: the functions of migration 0030."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg.types.json import Jsonb

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.nuls import refuse_nul
from neolayer.tenancy.database import Scope

QUERIES = load_queries(__name__, "searching.sql")
LONGEST_TERM = 100
PAGE = 50


@dataclass(frozen=True, slots=True)
class FoundUser:
    """Of a user what may be shown to whoever looks for one."""

    id: UUID
    email: str
    username: str
    status: str
    created_at: datetime
    last_login_at: datetime | None


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """One of the tenant's documents."""

    id: UUID
    data: Any
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Search:
    """What the tenant of `scope` has, found by content."""

    scope: Scope

    async def users(self, term: str, *, limit: int = PAGE) -> list[FoundUser]:
        """Living users whose email or username contains the term, by email.

        A term of one or two letters must be their beginning. Raises InvalidInput.
        """
        if not 0 < len(term) <= LONGEST_TERM or not term.isprintable():
            raise InvalidInput(f"a search term is 1 to {LONGEST_TERM} printable characters")
        rows = await self.scope.fetch(QUERIES.search_users, {"term": term, "most": limit})
        return [FoundUser(*row) for row in rows]

    async def documents(
        self, part: Mapping[str, Any], *, after: UUID | None = None, limit: int = PAGE
    ) -> list[FoundDocument]:
        """Documents that contain `part` (PostgreSQL's `@>`), by id, those after `after`.

        Raises HoldsNul.
        """
        refuse_nul(dict(part), "part")
        params = {"part": Jsonb(dict(part), dumps=orjson.dumps), "after": after, "most": limit}
        rows = await self.scope.fetch(QUERIES.search_documents, params)
        return [FoundDocument(*row) for row in rows]
