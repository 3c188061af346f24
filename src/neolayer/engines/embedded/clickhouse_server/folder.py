"""What we keep in the data folder beside chDB's own files: a lock and the configuration."""

from __future__ import annotations

import fcntl
import os
from importlib.resources import files
from pathlib import Path

from neolayer.errors import EngineUnavailable

_NAME = "neolayer"
_PACKAGE = "neolayer.engines.embedded.clickhouse_server"


class OwnFolder:
    """Holds the data folder from making to `release`.

    chDB locks it too, but reports a second owner badly and on two lines. Raises EngineUnavailable
    where another process owns the folder or it cannot be written.
    """

    def __init__(self, data: Path) -> None:
        folder = data / _NAME
        self.configuration = folder / "config.xml"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_configuration(self.configuration)
        except BlockingIOError:
            reason = f"another process owns {data}; only one may at a time"
            raise EngineUnavailable("clickhouse", reason) from None
        except OSError as exc:
            raise EngineUnavailable("clickhouse", f"{data}: {exc.strerror}") from exc

    def release(self) -> None:
        os.close(self._lock)


def _write_configuration(config: Path) -> None:
    package = files(_PACKAGE)
    users = config.with_name("users.xml")
    users.write_text(package.joinpath("users.xml").read_text("utf-8"), encoding="utf-8")
    template = package.joinpath("config.xml").read_text("utf-8")
    config.write_text(template.replace("{users}", str(users)), encoding="utf-8")
