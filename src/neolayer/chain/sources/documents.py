"""The JSON values in a file, one after another, whatever they are packed in.

A file holds one JSON value (an object, an array, pretty-printed or not) or one value a line; it may
be compressed with gzip or Zstandard, which is told by its content. Lines are streamed, so a file of
any length needs the memory of its longest line; a single value is read whole, up to a limit.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import zstandard

from neolayer.chain.decoding import Decoder, TooDeep
from neolayer.errors import BadBlock, SourceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".json", ".jsonl", ".ndjson")
_PACKED = ("", ".gz", ".zst")
_NAMES = tuple(suffix + packed for suffix in SUFFIXES for packed in _PACKED)
_HINT = f"they end in {', '.join(SUFFIXES)}, packed ones in .gz or .zst behind that"
_LINES = {".jsonl", ".ndjson"}
LARGEST_VALUE = 1 << 30
_raw_decoder = Decoder(msgspec.Raw)


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON value and where it stood: the file, with a line number where there are several."""

    origin: str
    content: bytes


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The named files as they are, and of named folders every file that looks like blocks, sorted.

    Raises SourceError for what is absent, and where nothing is left.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(
                each for each in path.rglob("*") if each.name.endswith(_NAMES) and not each.is_dir()
            )
        elif path.exists():
            found.append(path)
        else:
            raise SourceError(f"{path}: no such file or folder")
    if not found:
        named = ", ".join(str(path) for path in paths)
        raise SourceError(f"{named}: no block files", hint=_HINT)
    return found


def read_documents(
    path: Path, *, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """The values of one file in order, not parsed: whether each is JSON shows when it is decoded.

    `on_bytes` is told how many bytes of the file (as stored) were read since it was last told.
    Raises BadBlock where the file cannot be read or ends early; what came before stands.
    """
    try:
        with _opened(path) as (stored, content):
            consumed = 0
            for document in _split(path, content):
                yield document
                if on_bytes is not None:
                    position = stored.tell()
                    on_bytes(position - consumed)
                    consumed = position
    except (OSError, EOFError, zstandard.ZstdError) as exc:
        raise BadBlock(_reason(exc), origin=str(path)) from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"damaged or cut short ({exc})"


@contextmanager
def _opened(path: Path) -> Generator[tuple[BinaryIO, io.BufferedIOBase]]:
    """The file as stored, and its content unpacked. A pipe or a device is not opened: it may never
    end, or never begin."""
    if not path.is_file():
        path.stat()  # what is not there at all has its own error
        raise BadBlock("is not a regular file", origin=str(path))
    with io.BufferedReader(io.FileIO(path), 1 << 18) as stored:
        start = stored.read(4)
        stored.seek(0)
        if start[:2] == b"\x1f\x8b":
            yield stored, gzip.GzipFile(fileobj=stored)
        elif start == b"\x28\xb5\x2f\xfd":
            yield stored, io.BufferedReader(_Zstandard(stored), 1 << 18)
        else:
            yield stored, stored


def _split(path: Path, content: io.BufferedIOBase) -> Iterator[Document]:
    """One value a line where name or first line say so, else one value in all."""
    first = content.readline(LARGEST_VALUE).removeprefix(codecs.BOM_UTF8)
    second = content.readline(LARGEST_VALUE)
    if second and not (_LINES.intersection(path.suffixes) or _is_json(first)):
        first = b"".join((first, second, *_pieces(content)))
        second = b""
    if len(first) >= LARGEST_VALUE:
        raise BadBlock("one JSON value above 1 GiB; write one block a line", origin=str(path))
    yield Document(f"{path}:1" if second else str(path), first)
    number = 2
    while second:
        if second.strip():
            yield Document(f"{path}:{number}", second)
        second = content.readline(LARGEST_VALUE)
        number += 1


def _pieces(content: io.BufferedIOBase) -> Iterator[bytes]:
    left = LARGEST_VALUE
    while left > 0 and (piece := content.read(1 << 20)):
        left -= len(piece)
        yield piece


def _is_json(line: bytes) -> bool:
    try:
        _raw_decoder.decode(line)
    except TooDeep:
        return _is_closed(line)
    except msgspec.DecodeError:
        return False
    return True


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _is_closed(line: bytes) -> bool:
    """Whether all brackets are closed: what can be told of a value nested too deeply to be read."""
    bare = _STRING.sub(b"", line)
    return sum(map(bare.count, (b"[", b"{"))) == sum(map(bare.count, (b"]", b"}")))


class _Zstandard(io.RawIOBase):
    """The content of a Zstandard file. Unlike the package's own reader it notices a missing end."""

    def __init__(self, stored: BinaryIO) -> None:
        self._stored = stored
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while not self._ready:
            self._packed = self._packed or self._stored.read(1 << 13)
            if not self._packed:
                if not self._frame.eof:
                    raise EOFError("it ends within a frame")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(self._packed))
            self._packed = self._frame.unused_data
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def holds(path: Path, words: bytes) -> bool:
    """Whether the words occur in the file's content. Raises BadBlock as the reading does."""
    try:
        with _opened(path) as (_, content):
            overlap = len(words) - 1
            buffer = bytearray(overlap + (1 << 18))
            free = memoryview(buffer)[overlap:]
            while count := content.readinto(free):  # one buffer: fresh memory is what costs here
                if buffer.find(words, 0, overlap + count) >= 0:
                    return True
                buffer[:overlap] = buffer[count : count + overlap]
    except (OSError, EOFError, zstandard.ZstdError) as exc:
        raise BadBlock(_reason(exc), origin=str(path)) from exc
    return False


def total_bytes(files: Iterable[Path]) -> int:
    """The size of all files as stored, for a progress bar."""
    return sum(path.stat().st_size for path in files if path.is_file())
