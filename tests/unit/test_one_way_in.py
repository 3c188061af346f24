"""The one way to a connection that sees tenants' rows: `tenancy.database`, which signs contexts."""

from __future__ import annotations

import re
from pathlib import Path

import neolayer

SOURCE = Path(neolayer.__file__).parent
# Whoever opens a connection as the application's role, and what it sees without a context.
OPENERS = {
    "tenancy/database.py": "a scope's transaction: context set and asserted, wiped on return",
    "face.py": "the chain's public rows; no context, so no tenant's",
    "freshness/put_back.py": "the end of the server's log; no table at all",
    "freshness/streams.py": "the queues' checkpoint; no context, so no tenant's",
    "insight/roles.py": "whether it can work at all: a connection is opened and given back",
    "insight/querying.py": "a question of one tenant, read-only, in a context of its own",
    "keys/store.py": "locked keys of the platform; no context, so no tenant's",
}


def test_G_only_known_doors_open_as_the_application() -> None:
    """A new room goes through a scope; whoever needs another door says here what it sees."""
    opens = re.compile(r"\.dsn\(\s*Role\.APP|role = .*Role\.APP")
    found = {
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if opens.search(file.read_text(encoding="utf-8"))
    }
    assert found == OPENERS.keys()
