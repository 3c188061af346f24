"""Free loopback ports."""

from __future__ import annotations

import contextlib
import socket

from neolayer.errors import EngineError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Several different ones."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((LOOPBACK, 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def is_free(port: int) -> bool:
    """Whether nobody listens on a loopback port at this moment."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(name: str, host: str, port: int) -> None:
    """Raises EngineError, in one sentence, where somebody listens on a port the user has fixed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as exc:
            raise EngineError(
                name,
                f"port {port} on {host} cannot be used: {exc.strerror}",
                hint=f"stop what listens there or set {name}.port to 0 (any free port)",
            ) from exc
