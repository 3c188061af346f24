"""Compare what the migrations make with the committed `dump.sql`, or renew it.

python -m neolayer.schema.dump            compare, on throw-away servers
python -m neolayer.schema.dump --write    renew dump.sql after a new migration
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from neolayer.schema.lines import Line
from neolayer.schema.picture import FILE, committed, differences, dump, render
from neolayer.schema.runner import migrate_up
from neolayer.schema.throwaway import throwaway_servers


async def made_by_migrations() -> dict[Line, str]:
    """Each line's database as all migrations together make it."""
    async with throwaway_servers() as endpoints:
        await migrate_up(endpoints)
        return await dump(endpoints)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m neolayer.schema.dump", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the committed dump")
    arguments = parser.parse_args()
    sections = asyncio.run(made_by_migrations())
    if arguments.write:
        Path(__file__).with_name(FILE).write_text(render(sections), encoding="utf-8")
        return 0
    expected = committed()
    changes = [
        change
        for line, text in sections.items()
        for change in differences(expected.get(line, ""), text)
    ]
    sys.stdout.write("".join(f"{change}\n" for change in changes))
    return 1 if changes else 0


if __name__ == "__main__":
    raise SystemExit(main())
