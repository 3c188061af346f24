"""Logging to stderr with secrets masked, and the process's metrics registry."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry

REGISTRY = CollectorRegistry()

# Up to the last @ of the line: a password that should have been percent-encoded may hold anything.
_URL_PASSWORD = re.compile(r"(?<=://)([^:@/\s]*):[^\n]*@")
_KEY_VALUE = re.compile(
    r"\b((?:\w*(?:password|passwd|secret|token|api_?key|private_?key))['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&]+)",
    re.IGNORECASE,
)
# Bearer tokens say what they are: see identity/session_tokens.py.
_BEARER = re.compile(r"\b(nl[srk]1\.)[A-Za-z0-9_-]+")


def mask(text: str) -> str:
    """The text with passwords in URLs and `password=...` pairs replaced by `***`, and tokens."""
    shown = _BEARER.sub(r"\1***", text)
    return _KEY_VALUE.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", shown))


def _mask_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: mask(value) if isinstance(value, str) else value for key, value in event.items()}


def configure_logging(*, level: int = logging.INFO) -> None:
    """Set up structured logging for this process: one line an event on stderr, secrets masked."""
    import structlog  # a quarter of a second, which a command that logs nothing need not wait

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask_values,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def log_warning(event: str, **values: object) -> None:
    """Log for rooms that seldom do: structlog is loaded with the first line, not with the room."""
    import structlog

    structlog.get_logger().warning(event, **values)


def log_error(event: str, **values: object) -> None:
    """The same for what went wrong."""
    import structlog

    structlog.get_logger().error(event, **values)
