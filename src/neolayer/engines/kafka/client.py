"""Clients of Kafka.

The client is an extra (`neolayer[streams]`), so it is loaded where it is needed. librdkafka works
in threads of its own and blocks its caller, so that each user of it here has one thread to wait in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final, TypeVar

from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.errors import EngineError, EngineUnavailable, NotSupported

T = TypeVar("T")
TIMEOUT_S: Final = 10.0
_AT_ONCE_S: Final = 2.0
_SILENT: Final = frozenset({"_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_RESOLVE"})


def library() -> Any:
    """The client's module. Raises NotSupported where it is not installed."""
    try:
        import confluent_kafka
    except ImportError as exc:
        raise NotSupported(
            "kafka",
            "its client is not installed",
            hint="pip install 'neolayer[streams]'",
        ) from exc
    return confluent_kafka


def options(endpoint: KafkaEndpoint) -> dict[str, Any]:
    """What every client of ours says; failures are ours to tell, so its own log is off."""
    return {
        "bootstrap.servers": endpoint.servers,
        "client.id": "neolayer",
        "log_level": 0,
        "socket.connection.setup.timeout.ms": int(TIMEOUT_S * 1000),
        **endpoint.options,
    }


def explain(exc: BaseException, endpoint: KafkaEndpoint) -> EngineError:
    """The one sentence for a call that failed."""
    error: Any = exc.args[0] if exc.args else exc
    name = error.name() if hasattr(error, "name") else ""
    text = error.str() if hasattr(error, "str") else str(exc)
    hint = None
    if name in _SILENT:
        meaning, hint = "does not answer", "is a broker running there?"
    elif name in ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED"):
        meaning, hint = "refuses the password", "check streams.kafka.username and password"
    elif name in ("TOPIC_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"):
        meaning, hint = f"does not let us: {text}", "grant write on the prefix to this user"
    else:
        meaning = f"answers with an error: {text}"
    return EngineUnavailable("kafka", f"{endpoint.address} {meaning}", hint=hint)


class Thread:
    """One thread to wait in for librdkafka; `close` ends it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"kafka {name}")
        self._is_ending = False

    async def run(self, work: Callable[[], T]) -> T:
        """The answer. A cancelled caller leaves the work to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def patiently(self, ask: Callable[[float], Any]) -> Any:
        """What it answers within `TIMEOUT_S`; called in the thread itself, and given a little of
        that at a time, so that an end need not wait for a broker that says nothing."""
        deadline = monotonic() + TIMEOUT_S
        while True:
            left = deadline - monotonic()
            is_last = left <= _AT_ONCE_S or self._is_ending
            try:
                answer = ask(max(0.0, min(left, _AT_ONCE_S)))
            except library().KafkaException as exc:
                if is_last or self._is_ending or exc.args[0].name() not in _SILENT:
                    raise
            else:
                if answer is not None or is_last or self._is_ending:
                    return answer

    def end(self, last: Callable[[], None]) -> None:
        """Do this when what is under way has ended, and stop."""
        self._pool.submit(last)
        self.close()

    def close(self) -> None:
        self._is_ending = True
        self._pool.shutdown(wait=False)
