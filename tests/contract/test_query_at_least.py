"""`query --at-least` on PostgreSQL's databases: an answer as of the position, or none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import ANY
from uuid import uuid4

import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import InvalidInput
from neolayer.events import NewEvent
from neolayer.freshness import NotWritten
from neolayer.insight.querying import Target, ask
from neolayer.position import Position, Positions


async def answer(at: Endpoints, target: Target, statement: str, **asked: Any) -> tuple[Any, Any]:
    async with ask(at, target, statement, **asked) as found:
        return [row async for block in found.blocks for row in block], found.position


async def test_an_answer_of_the_source_is_as_of_what_was_asked(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """The event is there, and the answer says as of when; a token over both databases does too."""
    events = new_events()
    written = await events.append(uuid4(), [NewEvent("Noted", {})], category="note")
    assert written.position is not None
    count = f"SELECT count(*) FROM events WHERE tenant_id = '{events.scope.tenant}'"
    core = Position(written.position.epoch, written.position.lsn)
    for wanted in (written.position, Positions.of(core, written.position)):
        rows, at = await answer(module_databases, Target.EVENTS, count, at_least=wanted)
        assert [list(row) for row in rows] == [[1]]
        assert at >= written.position and at.database == "event_store"
    rows, at = await answer(module_databases, Target.CORE, "SELECT 1", at_least=core)
    assert at >= core
    assert (await answer(module_databases, Target.EVENTS, count))[1] is None


@pytest.mark.parametrize("target", [Target.EVENTS, Target.CORE])
async def test_a_position_beyond_the_log_is_not_answered(
    module_databases: Endpoints, target: Target
) -> None:
    """It is waited for, and then said how far the log is, with the code of what is not fresh."""
    database = "event_store" if target is Target.EVENTS else "neolayer"
    far = Position(1, 1 << 46, database)
    with pytest.raises(NotWritten, match=f"not come to {database}:1:4000/0 yet: it is at") as said:
        await answer(
            module_databases, target, "SELECT 1", at_least=far, patience=timedelta(milliseconds=60)
        )
    assert said.value.exit_code == 4


async def test_what_a_position_says_nothing_of_is_refused(module_databases: Endpoints) -> None:
    """Another database's position alone, and read models, which follow by themselves."""
    core, own = Position(1, 1), Position(1, 1, "event_store")
    with pytest.raises(InvalidInput, match="says nothing of the database event_store"):
        await answer(module_databases, Target.EVENTS, "SELECT 1", at_least=core)
    for table in (
        "read_models.x",
        "read_models_next.x",
        "READ_MODELS_previous . x",
        '"read_models".x',
    ):
        with pytest.raises(InvalidInput, match="read model is behind its events"):
            await answer(module_databases, Target.EVENTS, f"TABLE {table}", at_least=own)
    named = "SELECT 1 FROM events WHERE event_type = 'read_models'"
    assert await answer(module_databases, Target.EVENTS, named, at_least=own) == ([], ANY)
