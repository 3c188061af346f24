"""Run the owner process: `python -m neolayer.engines.embedded.clickhouse_server --path DIR ...`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from neolayer.engines.embedded.clickhouse_server.app import App, make_server
from neolayer.engines.embedded.clickhouse_server.auth import LOOPBACK, Users, load_users
from neolayer.engines.embedded.clickhouse_server.engine import Engine
from neolayer.errors import EngineUnavailable, NeolayerError, SettingsError

_GRACE_SECONDS = 2.0
_STOP_SECONDS = 10.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clickhouse_server", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="folder of the data")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0: any free one")
    parser.add_argument("--username", default="neolayer", help="the user that may write")
    parser.add_argument("--password-file", type=Path, required=True, help="users and passwords")
    parser.add_argument("--port-file", type=Path, help="written with the port once ready")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    _do_without("pyarrow", "pandas")
    try:
        asyncio.run(_serve(arguments))
    except NeolayerError as exc:
        hint = f" ({exc.hint})" if exc.hint else ""
        print(f"{exc.message}{hint}", file=sys.stderr)  # noqa: T201
        return exc.exit_code
    return 0


def _do_without(*modules: str) -> None:
    """Make chDB believe these are not installed. It loads them for results in Python, which we
    never ask for: 40 MB less memory, and no way for a query (`Python(x)`) to load 100 MB more."""
    for name in modules:
        sys.modules[name] = None  # type: ignore[assignment]


async def _serve(arguments: argparse.Namespace) -> None:
    users = _prepare(arguments)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(arguments.path.absolute())
    app = App.over(engine, users)
    try:
        await _listen(app, arguments, stop)
    finally:
        app.threads.close()
        app.links.close()
        engine.close()


async def _listen(app: App, arguments: argparse.Namespace, stop: asyncio.Event) -> None:
    server = make_server(app)
    loop = asyncio.get_running_loop()
    try:
        listener = await loop.create_server(server, arguments.host, arguments.port, backlog=256)
    except OSError as exc:
        where = f"{arguments.host}:{arguments.port}"
        raise EngineUnavailable("clickhouse", f"cannot listen on {where}: {exc.strerror}") from exc
    expiry = asyncio.create_task(app.links.expire_sessions())
    port: int = listener.sockets[0].getsockname()[1]
    if arguments.port_file is not None:
        _write_port(arguments.port_file, port)
    print(f"ClickHouse {app.engine.version} on {arguments.host}:{port}", file=sys.stderr)  # noqa: T201
    await stop.wait()
    listener.close()
    expiry.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await expiry
    drained = await app.runner.drain(grace_seconds=_GRACE_SECONDS, limit_seconds=_STOP_SECONDS)
    if not drained:  # nothing is lost: what was acknowledged is on disk
        print("a statement does not stop; leaving without it", file=sys.stderr)  # noqa: T201
        os._exit(1)
    server.pre_shutdown()  # not before: from then on what a client still sends is not read
    await server.shutdown(1)


def _prepare(arguments: argparse.Namespace) -> Users:
    if arguments.host not in LOOPBACK:
        raise SettingsError(f"{arguments.host}: this server listens on loopback only")
    try:
        arguments.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise EngineUnavailable("clickhouse", f"{arguments.path}: {exc.strerror}") from exc
    return load_users(arguments.password_file, owner=arguments.username)


def _write_port(file: Path, port: int) -> None:
    """Whole or not at all, so that a watcher never reads half a number."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(f"{port}\n", encoding="ascii")
    partial.replace(file)


if __name__ == "__main__":
    sys.exit(main())
