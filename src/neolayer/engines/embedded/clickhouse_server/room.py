"""Whether the disk has room for an INSERT, which is asked before and while it is taken.

Where there is none chDB takes an INSERT all the same, says how many rows it wrote, and has none of
them: no error reaches us. A server answers with NOT_ENOUGH_SPACE, and so do we, while there still
is room for what the engine has to write for itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from neolayer.engines.embedded.clickhouse_server import faults
from neolayer.engines.embedded.clickhouse_server.faults import ClickHouseFault

RESERVE_BYTES: Final = 32 << 20


def require_room(folder: Path, taken: int) -> None:
    """Raises ClickHouseFault where so many bytes of data may not fit."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < RESERVE_BYTES + taken:
        raise ClickHouseFault.of(
            faults.NOT_ENOUGH_SPACE,
            f"Cannot reserve {taken} bytes, not enough space: {free >> 20} MiB are free and"
            f" {RESERVE_BYTES >> 20} MiB are kept",
        )
