"""eventsourcing 9.5.6: `repository.get` of an aggregate in PostgreSQL, no snapshot, no cache."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from bench.contenders.protocol import Job, serve


class Account(Aggregate):
    @event("Opened")
    def __init__(self) -> None:
        self.balance = 0

    @event("Deposited")
    def deposit(self, account: str, amount: int, currency: str, note: str) -> None:
        self.balance += amount


class Bank(Application[UUID]):
    pass


_kept: dict[str, Any] = {}


def prepare(job: Job) -> None:
    """The aggregate, stored."""
    bank = Bank(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": job["dbname"],
            "POSTGRES_HOST": job["host"],
            "POSTGRES_PORT": str(job["port"]),
            "POSTGRES_USER": job["user"],
            "POSTGRES_PASSWORD": job["password"],
        }
    )
    account = Account()
    for _ in range(job["events"] - 1):
        account.deposit(**job["data"])
    bank.save(account)
    _kept.update(bank=bank, id=account.id)


def run(job: Job) -> int:
    bank: Bank = _kept["bank"]
    for _ in range(job["times"]):
        account: Account = bank.repository.get(_kept["id"])
        assert account.version == job["events"]
    return int(job["times"])


if __name__ == "__main__":
    serve(run, prepare)
