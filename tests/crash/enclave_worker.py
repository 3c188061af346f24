"""A worker in a process of its own, to be killed: `python -m tests.crash.enclave_worker ENCLAVE`.

Where and as whom it works comes by the environment. It claims, says what, and hangs.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from uuid import UUID

import psycopg

from neolayer.enclave.computations import sql


def main(enclave_id: str) -> None:
    at = datetime.fromisoformat(os.environ["CRASH_AT"])
    context = os.environ["CRASH_CONTEXT"]
    with psycopg.connect(os.environ["CRASH_DSN"]) as session:
        session.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
        row = session.execute(
            sql.claim,
            {
                "tenant_id": UUID(context.split(".")[0]),
                "enclave_id": enclave_id,
                "attestation_id": UUID(os.environ["CRASH_ATTESTATION"]),
                "worker": "doomed",
                "lease": timedelta(seconds=10),
                "at": at,
            },
        ).fetchone()
        session.commit()
        assert row is not None
        print(row[0], row[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
