"""Time series on plain PostgreSQL: late rows are rolled up exactly, nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role

Session = psycopg.Connection
SERVICE = uuid4()
INSERT = """
INSERT INTO public.metrics (time, service_id, metric_name, value, tags, unit)
VALUES (%s, %s, 'latency', %s, %s, 'ms')
"""


@pytest.fixture
def session(module_databases: Endpoints) -> Iterator[Session]:
    dsn = module_databases.timeseries.dsn(Role.INGEST, Database.TIMESERIES)
    with psycopg.connect(dsn) as opened, opened.transaction(force_rollback=True):
        yield opened


def write(session: Session, at: str, value: float, *, tags: str = "{}") -> None:
    session.execute(INSERT, (at, SERVICE, value, tags))


def hours(session: Session) -> list[tuple[object, ...]]:
    return session.execute(
        "SELECT extract(hour FROM bucket)::int, count, sum_value, min_value, max_value, avg_value"
        " FROM public.metrics_hourly ORDER BY bucket"
    ).fetchall()


def refresh(session: Session) -> int:
    row = session.execute("SELECT public.refresh_metrics_hourly()").fetchone()
    assert row is not None
    return row[0]


def test_rows_of_the_view_come_back(session: Session) -> None:
    """The specification's table is a view; writing to it and reading from it still work."""
    write(session, "2026-03-01 10:15+00", 3.5, tags='{"node": "a"}')
    row = session.execute("SELECT service_id, metric_name, value, tags, unit FROM public.metrics")
    assert row.fetchall() == [(SERVICE, "latency", 3.5, {"node": "a"}, "ms")]


def test_late_and_repeated_rows_are_rolled_up_exactly(session: Session) -> None:
    """An hour is recomputed when touched again; a sample sent twice counts once."""
    write(session, "2026-03-01 10:15+00", 1)
    write(session, "2026-03-01 10:45+00", 3)
    write(session, "2026-03-01 11:00+00", 5)
    assert refresh(session) == 2
    assert hours(session) == [(10, 2, 4, 1, 3, 2), (11, 1, 5, 5, 5, 5)]
    write(session, "2026-03-01 10:15+00", 1)
    write(session, "2026-03-01 10:59+00", 8)
    assert refresh(session) == 1
    assert hours(session)[0] == (10, 3, 12, 1, 8, 4)
    assert refresh(session) == 0


def test_series_of_one_metric_merge(session: Session) -> None:
    """Sum and count of two series make a true average; two averages would not."""
    write(session, "2026-03-01 10:00+00", 1, tags='{"node": "a"}')
    write(session, "2026-03-01 10:01+00", 1, tags='{"node": "a"}')
    write(session, "2026-03-01 10:02+00", 4, tags='{"node": "b"}')
    refresh(session)
    assert hours(session) == [(10, 3, 6, 1, 4, 2)]


def test_days_are_made_on_demand(session: Session) -> None:
    """What waited in the default partition moves, and is not rolled up twice."""
    write(session, "2019-07-01 10:00+00", 2)
    alarm = "SELECT row_count FROM public.default_partition_rows ORDER BY 1 DESC LIMIT 1"
    assert session.execute(alarm).fetchone() == (1,)
    made = session.execute("SELECT public.ensure_partitions('2019-07-01', '2019-07-02')").fetchone()
    assert made == (3,)
    assert session.execute(alarm).fetchone() == (0,)
    refresh(session)
    assert hours(session) == [(10, 1, 2, 2, 2, 2)]


def test_a_sample_needs_its_series(session: Session) -> None:
    """What a foreign key would say, once a statement."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        session.execute("INSERT INTO public.metric_samples VALUES (-1, '2026-03-01', 1)")


@pytest.mark.parametrize("at", ["infinity", "2262-01-02", "0001-01-01"])
def test_D_times_outside_the_clock_are_refused(session: Session, at: str) -> None:
    """Nanoseconds in 64 bits end in 2262."""
    with pytest.raises(psycopg.errors.CheckViolation):
        write(session, at, 1)
