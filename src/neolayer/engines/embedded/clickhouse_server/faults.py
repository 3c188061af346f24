"""ClickHouse's error codes, and how an error is said over HTTP.

Clients act on the number in `X-ClickHouse-Exception-Code` and show the body's text; both must look
as a server's do. The status follows the server's own table (`exceptionCodeToHTTPStatus`).
"""

from __future__ import annotations

import re

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_REPEATED = re.compile(r"^(Code: \d+\. DB::Exception: )(?:Code: \d+\. DB::Exception: )+")
_NAME_TWICE = re.compile(r"(\.? \([A-Z_0-9]+\))(?:\.?\s*\1)+")
_VERSION = re.compile(r"\s*\(version [\d.]+[^)]*\)")

UNKNOWN_EXCEPTION = 1002
CANNOT_PARSE_INPUT = 27
BAD_ARGUMENTS = 36
NOT_IMPLEMENTED = 48
SYNTAX_ERROR = 62
UNKNOWN_QUERY_TYPE = 78
UNKNOWN_COMPRESSION = 89
READONLY = 164
QUERY_IS_TOO_LARGE = 223
NOT_ENOUGH_SPACE = 243
TOO_MANY_SIMULTANEOUS_QUERIES = 202
QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING = 216
INTO_OUTFILE_NOT_ALLOWED = 308
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
INVALID_SESSION_TIMEOUT = 374
AUTHENTICATION_FAILED = 516

_NAMES = {
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
    CANNOT_PARSE_INPUT: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    UNKNOWN_QUERY_TYPE: "UNKNOWN_TYPE_OF_QUERY",
    UNKNOWN_COMPRESSION: "UNKNOWN_COMPRESSION_METHOD",
    READONLY: "READONLY",
    QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
    NOT_ENOUGH_SPACE: "NOT_ENOUGH_SPACE",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    INVALID_SESSION_TIMEOUT: "INVALID_SESSION_TIMEOUT",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
}

_BAD_REQUEST = {6, 26, 27, 36, 38, 41, 43, 53, 62, 69, 70, 72, 117, 130, 456, 457}
_NOT_FOUND = {16, 46, 47, 50, 56, 60, 73, 78, 81, 115, 372}
_STATUS = {
    NOT_IMPLEMENTED: 501,
    TOO_MANY_SIMULTANEOUS_QUERIES: 503,
    QUERY_IS_TOO_LARGE: 413,
    AUTHENTICATION_FAILED: 403,
}


class ClickHouseFault(Exception):
    """An error in ClickHouse's terms: a code, and the text a client is shown."""

    def __init__(self, code: int, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or _status_of(code)
        self.text = message

    @classmethod
    def of(cls, code: int, reason: str, *, status: int | None = None) -> ClickHouseFault:
        """A fault of this server's own, worded as the engine words its errors."""
        shown = reason.encode(errors="replace").decode()
        text = f"Code: {code}. DB::Exception: {shown}. ({_NAMES[code]})"
        return cls(code, text, status=status)

    @classmethod
    def from_engine(cls, text: str) -> ClickHouseFault:
        """A fault from the text of an error the engine raised."""
        start = _CODE.search(text)
        if start is None:
            return cls.of(UNKNOWN_EXCEPTION, text.strip() or "the engine failed without a reason")
        text = _VERSION.sub("", _REPEATED.sub(r"\1", text[start.start() :])).strip()
        cleaned = _NAME_TWICE.sub(r"\1", text)
        return cls(int(start[1]), cleaned)


def _status_of(code: int) -> int:
    if code in _BAD_REQUEST:
        return 400
    if code in _NOT_FOUND:
        return 404
    return _STATUS.get(code, 500)
