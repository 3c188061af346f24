"""eventsourcing 9.5.6: its PostgreSQL recorder, appended to by threads and read in order.

`"route": "append"` writes single events by so many threads (its recorders are not asynchronous),
with or without its database functions; `"route": "select"` reads all notifications in pages, each
with its data decoded, as ours has.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from eventsourcing.persistence import InfrastructureFactory, StoredEvent
from eventsourcing.utils import Environment

from bench.contenders.protocol import Job, serve

_recorders: dict[bool, Any] = {}


def prepare(job: Job) -> None:
    """A recorder with tables of its own for each of the two ways."""
    for functions in (False, True):
        env = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": job["dbname"],
            "POSTGRES_HOST": job["host"],
            "POSTGRES_PORT": str(job["port"]),
            "POSTGRES_USER": job["user"],
            "POSTGRES_PASSWORD": job["password"],
            "POSTGRES_POOL_SIZE": "8",
            "POSTGRES_ENABLE_DB_FUNCTIONS": "y" if functions else "n",
        }
        factory: Any = InfrastructureFactory.construct(
            Environment("functions" if functions else "plain", env)
        )
        _recorders[functions] = factory.application_recorder()


def run(job: Job) -> int:
    recorder = _recorders[job["functions"]]
    return _read(recorder, job) if job["route"] == "select" else _append(recorder, job)


def _append(recorder: Any, job: Job) -> int:
    def write(_: int) -> None:
        stream = uuid4()
        for version in range(1, job["each"] + 1):
            state = json.dumps(job["data"]).encode()
            recorder.insert_events([StoredEvent(stream, version, "Deposited", state)])

    with ThreadPoolExecutor(job["writers"]) as threads:
        list(threads.map(write, range(job["writers"])))
    return int(job["writers"] * job["each"])


def _read(recorder: Any, job: Job) -> int:
    start, read = None, 0
    while True:
        found = recorder.select_notifications(start, job["page"], inclusive_of_start=False)
        if not found:
            return read
        read += sum(json.loads(each.state)["amount"] == job["amount"] for each in found)
        start = found[-1].id


if __name__ == "__main__":
    serve(run, prepare)
