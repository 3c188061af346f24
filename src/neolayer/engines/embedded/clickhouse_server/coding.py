"""Content encodings, piece by piece, with bounded memory on the way in.

A few bytes can decompress to gigabytes, so decoders hand out at most `PIECE_BYTES` at once.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from neolayer.engines.embedded.clickhouse_server.faults import UNKNOWN_COMPRESSION, ClickHouseFault

PIECE_BYTES = 1 << 20


class Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _FrameDecoder(Protocol):
    """What bz2, lz4.frame and zstd decompressors share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Zstd(Protocol):
    def ZstdCompressor(self, level: int) -> Encoder: ...
    def ZstdDecompressor(self) -> _FrameDecoder: ...


class _Lz4Encoder(Protocol):
    def begin(self) -> bytes: ...
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Lz4(Protocol):
    def LZ4FrameCompressor(self) -> _Lz4Encoder: ...
    def LZ4FrameDecompressor(self) -> _FrameDecoder: ...


_zstd = cast(
    _Zstd,
    importlib.import_module(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    ),
)
_lz4 = cast(_Lz4, importlib.import_module("lz4.frame"))


class _WithBeginning:
    """An lz4 encoder that writes its frame's beginning before the first data."""

    def __init__(self) -> None:
        self._encoder = _lz4.LZ4FrameCompressor()
        self._beginning = self._encoder.begin()

    def compress(self, data: bytes, /) -> bytes:
        beginning, self._beginning = self._beginning, b""
        return beginning + self._encoder.compress(data)

    def flush(self) -> bytes:
        return self._beginning + self._encoder.flush()


_ENCODERS: dict[str, Callable[[], Encoder]] = {
    "lz4": _WithBeginning,
    "zstd": lambda: _zstd.ZstdCompressor(1),
    "gzip": lambda: zlib.compressobj(1, zlib.DEFLATED, 31),
    "deflate": lambda: zlib.compressobj(1, zlib.DEFLATED, 15),
}


def choose_encoding(accepted: str) -> str | None:
    """The first encoding of an Accept-Encoding header that we have; None: send as it is."""
    for part in accepted.split(","):
        name, _, weight = part.strip().lower().partition(";")
        if name.strip() in _ENCODERS and weight.replace(" ", "") != "q=0":
            return name.strip()
    return None


def new_encoder(encoding: str) -> Encoder:
    return _ENCODERS[encoding]()


class Decoder:
    """Decodes one body; `feed` takes any cut of it and yields pieces of bounded size."""

    def __init__(self, encoding: str) -> None:
        makers: dict[str, Callable[[], _FrameDecoder]] = {
            "zstd": _zstd.ZstdDecompressor,
            "lz4": _lz4.LZ4FrameDecompressor,
            "gzip": lambda: _ZlibFrame(31),
            "x-gzip": lambda: _ZlibFrame(31),
            "deflate": lambda: _ZlibFrame(15),
        }
        if encoding not in makers:
            raise ClickHouseFault.of(
                UNKNOWN_COMPRESSION, f"Unknown content encoding {encoding[:40]!r}", status=400
            )
        self._make = makers[encoding]
        self._frame = self._make()
        self._encoding = encoding
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decodes to. Raises a fault where it is not the encoding it claims."""
        while data:
            if self._frame.eof:
                self._frame = self._make()
            self._fed = True
            yield from self._drain(data)
            data = (self._frame.unused_data or b"") if self._frame.eof else b""

    def finish(self) -> None:
        """Raises a fault where the body ended inside a frame."""
        if self._fed and not self._frame.eof:
            raise self._malformed("it ends early")

    def _drain(self, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = self._frame.decompress(data, PIECE_BYTES)
            except Exception as exc:  # each codec has an error class of its own
                raise self._malformed(str(exc)) from exc
            if piece:
                yield piece
            if self._frame.eof or self._frame.needs_input:
                return
            data = b""

    def _malformed(self, reason: str) -> ClickHouseFault:
        return ClickHouseFault.of(
            UNKNOWN_COMPRESSION, f"The body is not valid {self._encoding}: {reason}", status=400
        )


class _ZlibFrame:
    """zlib with the face of the other decompressors."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < max_length
        return piece
