"""The segment log gives back what was appended, after any end of the process, up to a boundary."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import RelayError
from neolayer.relay import segment, segments
from neolayer.relay.changes import INSERT, Batch, Relation, TableChanges, Truncation
from neolayer.relay.segment import _BEGIN as BEGIN
from neolayer.relay.segment import CutOff, LogDamaged, Segment
from neolayer.relay.segments import Cursor, SegmentLog

THINGS = Relation(7, "public", "things", ("id", "name"), (20, 25))
START = 1_000


def batch(position: int, *, rows: int = 1, unfinished: int | None = None) -> Batch:
    """`rows` inserted rows that reach `position`, or lie in a transaction that goes on."""
    kinds = bytearray([INSERT]) * rows
    page = b"\xdd" + rows.to_bytes(4, "big") + b"\x92\xc4\x01a\xc4\x01b" * rows
    changes = TableChanges(THINGS, kinds, [unfinished or position], [0], [page])
    emptied = Truncation(THINGS, position)
    return Batch((emptied, changes), position, unfinished, rows, rows * 9, 12.5)


async def opened(folder: Path, *, bound: int = 1 << 30) -> SegmentLog:
    log = await SegmentLog.open(folder, bound=bound)
    log.resume(START, new_slot=False)
    return log


async def drained(log: SegmentLog, cursor: Cursor) -> list[Batch]:
    found: list[Batch] = []
    while cursor.unread_bytes:
        found.append(await cursor.next())
    assert cursor.unread_rows == 0
    return found


async def everything(log: SegmentLog) -> list[Batch]:
    return await drained(log, await log.cursor(log.start))


async def test_what_was_appended_is_read_again_by_the_next_process(tmp_path: Path) -> None:
    """From memory and from disk alike: rows, versions, truncations, positions."""
    log = await opened(tmp_path)
    written = [batch(START + step, rows=step) for step in range(1, 6)]
    for one in written:
        log.append(one)
    assert await everything(log) == written
    assert log.start == START and log.position == START + 5 and log.rows == 15
    await log.sync()
    again = await opened(tmp_path)
    assert await everything(again) == written
    assert again.start == START and again.position == again.durable == START + 5
    assert again.rows == 15
    read = await drained(again, await again.cursor(START + 3))
    assert read == written[3:]


async def test_a_reader_waits_for_what_comes(tmp_path: Path) -> None:
    """At the end of the log `next` returns as soon as something is appended."""
    log = await opened(tmp_path)
    waiting = asyncio.create_task((await log.cursor(START)).next())
    await asyncio.sleep(0)
    assert not waiting.done()
    log.append(batch(START + 1))
    assert await waiting == batch(START + 1)


async def test_a_torn_end_is_cut_wherever_it_is_torn(tmp_path: Path) -> None:
    """A file cut after any of its last bytes opens with the records that are whole."""
    log = await opened(tmp_path)
    log.append(batch(START + 1))
    (path,) = tmp_path.glob("*.segment")
    whole = path.stat().st_size
    log.append(batch(START + 2))
    data = path.read_bytes()
    for length in range(whole, len(data)):
        path.write_bytes(data[:length])
        again = await opened(tmp_path)
        assert await everything(again) == [batch(START + 1)], length
        assert path.stat().st_size == whole
    for place in range(whole, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert (await opened(tmp_path)).position == START + 1, place


async def test_a_transaction_without_its_end_is_cut(tmp_path: Path) -> None:
    """The server sends it again from its beginning, so its first pieces must not stay."""
    log = await opened(tmp_path)
    log.append(batch(START + 1))
    log.append(batch(START + 1, unfinished=START + 9))
    log.append(batch(START + 1, unfinished=START + 9))
    assert log.position == START + 1
    again = await opened(tmp_path)
    assert await everything(again) == [batch(START + 1)]
    again.append(batch(START + 9))
    assert again.position == START + 9


async def test_segments_that_all_have_passed_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sink still needs stays, the rest goes; who comes too late is cut off."""
    monkeypatch.setattr(segments, "_SEGMENT_BYTES", 1)
    monkeypatch.setattr(segments, "_RECENT_BYTES", 1)
    log = await opened(tmp_path)
    late = await log.cursor(START)
    for step in range(1, 6):
        log.append(batch(START + step))
        await log.roll()
    log.forget(START + 2)
    assert log.start == START + 2
    with pytest.raises(CutOff):
        await late.next()
    with pytest.raises(CutOff):
        await log.cursor(START + 1)
    rest = await drained(log, await log.cursor(START + 2))
    assert rest == [batch(START + step) for step in (3, 4, 5)]
    log.forget(None)
    assert log.start == START + 5 and len(list(tmp_path.glob("*.segment"))) == 1


async def test_beyond_the_bound_the_oldest_goes_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder stays within the bound and one segment."""
    bound = 4_000
    log = await opened(tmp_path, bound=bound)
    for step in range(1, 200):
        log.append(batch(START + step))
        await log.roll()
    assert log.held_bytes <= bound + bound // 8
    assert START < log.start < log.position == START + 199


async def test_no_segment_ends_inside_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that who reads on from a position finds a transaction whole."""
    monkeypatch.setattr(segments, "_SEGMENT_BYTES", 1)
    log = await opened(tmp_path)
    for _ in range(3):
        log.append(batch(START, unfinished=START + 9))
        await log.roll()
    assert len(list(tmp_path.glob("*.segment"))) == 1
    log.append(batch(START + 9))
    await log.roll()
    assert len(list(tmp_path.glob("*.segment"))) == 2


async def test_a_stream_that_begins_later_starts_a_new_log(tmp_path: Path) -> None:
    """Changes are missing in between: nothing of the old log may be believed complete."""
    log = await opened(tmp_path)
    cursor = await log.cursor(START)
    log.append(batch(START + 1))
    log.resume(START + 5, new_slot=False)
    assert log.start == log.position == START + 5
    log.append(batch(START + 6))
    assert await drained(log, await log.cursor(START + 5)) == [batch(START + 6)]
    log.resume(START + 5, new_slot=True)
    assert log.start == START + 5 and log.end != 0
    del cursor


async def test_a_log_of_another_version_is_not_believed(tmp_path: Path) -> None:
    """Its files go, and the log begins where the slot does."""
    log = await opened(tmp_path)
    log.append(batch(START + 1))
    (path,) = tmp_path.glob("*.segment")
    path.write_bytes(b"something else" + path.read_bytes())
    again = await SegmentLog.open(tmp_path, bound=1 << 30)
    again.resume(START + 1, new_slot=False)
    assert again.start == START + 1 and await everything(again) == []


async def test_a_damaged_record_is_an_error_not_a_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that changed on the disk are noticed when they are read."""
    monkeypatch.setattr(segments, "_RECENT_BYTES", 1)
    log = await opened(tmp_path)
    for step in range(1, 4):
        log.append(batch(START + step))
    (path,) = tmp_path.glob("*.segment")
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogDamaged, match="is damaged"):
        await (await log.cursor(START)).next()


async def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """What the system says becomes a RelayError, so that the relay tries again."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RelayError, match="cannot be used"):
        await SegmentLog.open(tmp_path / "taken", bound=1 << 20)


async def test_positions_only_rise(tmp_path: Path) -> None:
    """A batch from before the log's end is refused, and leaves nothing behind."""
    log = await opened(tmp_path)
    log.append(batch(START + 5))
    with pytest.raises(RelayError, match="is earlier"):
        log.append(batch(START + 4))
    assert await everything(log) == [batch(START + 5)]


async def test_a_segment_that_is_gone_does_not_come_back_without_its_beginning(
    tmp_path: Path,
) -> None:
    """Where somebody removed the file, appending is refused in one sentence."""
    log = await opened(tmp_path)
    (path,) = tmp_path.glob("*.segment")
    path.unlink()
    with pytest.raises(RelayError, match="cannot be used: No such file"):
        log.append(batch(START + 1))
    assert list(tmp_path.glob("*.segment")) == []


async def test_C4_nothing_stays_of_a_segment_whose_fsync_failed_when_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may have dropped any of it and never say so again: what the server was not told of
    comes from there once more, and what it was told of is copied."""
    log = await opened(tmp_path)
    for step in range(1, 4):
        log.append(batch(START + step))
    (path,) = tmp_path.glob("*.segment")
    failing = {path}

    def sync(brought: Path) -> None:
        if brought in failing:
            failing.clear()  # a disk says it once
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segments, "sync", sync)
    with pytest.raises(RelayError, match="cannot be used: Input/output error"):
        await SegmentLog.open(tmp_path, bound=1 << 30)
    again = await SegmentLog.open(tmp_path, bound=1 << 30)
    assert (again.position, again.durable) == (START, START)
    again.resume(START, new_slot=False)
    again.append(batch(START + 1, rows=5))
    assert await everything(again) == [batch(START + 1, rows=5)]


async def test_C4_nothing_takes_the_place_of_what_a_failed_fsync_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that came at that moment would stand where another was told: it is refused, and the
    server sends all of it again."""
    log = await opened(tmp_path)
    log.append(batch(START + 1))
    await log.sync()
    log.append(batch(START + 2))
    monkeypatch.setattr(segments, "sync", failing_sync)
    with pytest.raises(RelayError, match="Input/output error"):
        await log.sync()
    with pytest.raises(RelayError, match="lost its end"):
        log.append(batch(START + 3))
    monkeypatch.undo()
    log = await opened(tmp_path)
    assert log.position == START + 1


async def test_C4_an_fsync_that_fails_after_its_stream_has_ended_is_heard_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk says it once: whoever opens the log next would hear that all is well."""
    log = await opened(tmp_path)
    log.append(batch(START + 1))
    await log.sync()
    log.append(batch(START + 2))
    begun, may_fail = threading.Event(), threading.Event()

    def sync(_: Path) -> None:
        begun.set()
        assert may_fail.wait(PATIENCE_S)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segments, "sync", sync)
    syncing = asyncio.create_task(log.sync())
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    for _ in range(2):
        syncing.cancel()
        await asyncio.sleep(0)
    may_fail.set()
    with pytest.raises(RelayError, match="Input/output error"):
        await syncing
    monkeypatch.undo()
    assert (await opened(tmp_path)).position == START + 1


async def test_C4_a_record_that_does_not_follow_the_one_before_it_is_an_end(tmp_path: Path) -> None:
    """As of a log that lost a record between them: from there on the server sends again."""
    log = await opened(tmp_path)
    for step in range(1, 4):
        log.append(batch(START + step))
    await log.sync()
    (path,) = tmp_path.glob("*.segment")
    size = (path.stat().st_size - BEGIN) // 3
    held = path.read_bytes()
    path.write_bytes(held[: BEGIN + size] + held[BEGIN + 2 * size :])
    log = await opened(tmp_path)
    assert (log.position, log.rows) == (START + 1, 1)


def failing_sync(path: Path) -> None:
    raise OSError(errno.EIO, "Input/output error")


async def six_segments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A log of a batch each, closed."""
    monkeypatch.setattr(segments, "_SEGMENT_BYTES", 1)
    monkeypatch.setattr(segments, "_RECENT_BYTES", 1)
    log = await opened(folder)
    for step in range(1, 7):
        log.append(batch(START + step, rows=step % 3))
        await log.roll()
    await log.sync()
    return sorted(folder.glob("*.segment"))


def remove(path: Path) -> None:
    path.unlink()


def cut_between_records(path: Path) -> None:
    """The file holds one record: only its beginning stays."""
    with path.open("r+b") as file:
        file.truncate(segment._BEGIN)


def spoil_beginning(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])


@pytest.mark.parametrize("harm", [remove, cut_between_records, spoil_beginning])
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_C12_a_segment_that_is_missing_is_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], number: int
) -> None:
    """Gone, emptied at a record's end or spoilt, with rows or with none: who must read there is
    told; who stands behind it reads on."""
    paths = await six_segments(tmp_path, monkeypatch)
    harm(paths[number])
    log = await opened(tmp_path)
    assert (log.start, log.position, log.rows) == (START, START + 6, 6)
    cursor = await log.cursor(START)
    for step in range(1, number + 1):
        assert await cursor.next() == batch(START + step, rows=step % 3)
    with pytest.raises(LogDamaged):
        await cursor.next()
    with pytest.raises(LogDamaged):
        await (await log.cursor(START + number)).next()
    behind = await drained(log, await log.cursor(START + number + 1))
    assert [one.position for one in behind] == [START + one for one in range(number + 2, 7)]


@pytest.mark.parametrize("name", ["x.segment", "00000000000003EA.segment", "{}.copy.segment"])
async def test_a_file_that_is_none_of_ours_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Somebody's copy of a segment under a name that no segment has: neither read nor removed."""
    paths = await six_segments(tmp_path, monkeypatch)
    stray = tmp_path / name.format(paths[2].stem)
    stray.write_bytes(paths[2].read_bytes())
    log = await opened(tmp_path)
    assert [one.position for one in await everything(log)] == [START + one for one in range(1, 7)]
    assert stray.exists()


async def test_a_segment_under_another_segments_name_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beginning says where it belongs."""
    paths = await six_segments(tmp_path, monkeypatch)
    paths[3].write_bytes(paths[1].read_bytes())
    log = await opened(tmp_path)
    cursor = await log.cursor(START)
    assert [(await cursor.next()).position for _ in range(3)] == [START + 1, START + 2, START + 3]
    with pytest.raises(LogDamaged):
        await cursor.next()


class Unreadable:
    """A disk that does not give back these files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
        existing = Segment.existing

        def read(path: Path) -> Segment | None:
            if path in paths:
                raise OSError(errno.EIO, "Input/output error")
            return existing(path)

        monkeypatch.setattr(Segment, "existing", read)


async def test_C12_a_segment_that_the_disk_does_not_give_back_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who must still read it copies; the others go on. The file stays, and goes with the older
    ones: it may be read another time, and is none of a log that begins anew."""
    paths = await six_segments(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        Unreadable(patch, paths[0], paths[2])
        log = await opened(tmp_path)
        position = log.position
        assert log.start > START
        with pytest.raises(LogDamaged):
            await everything(log)
        assert await drained(log, await log.cursor(position)) == []
        assert all(path.exists() for path in paths)
    assert (await opened(tmp_path)).start == START
    with monkeypatch.context() as patch:
        Unreadable(patch, paths[0], paths[2])
        log = await opened(tmp_path)
        log.forget(None)
        assert [path.exists() for path in paths[:4]] == [False, False, False, False]
    paths = sorted(tmp_path.glob("*.segment"))
    with monkeypatch.context() as patch:
        Unreadable(patch, paths[-1])
        with pytest.raises(RelayError, match="cannot be used"):
            await opened(tmp_path)
        assert paths[-1].exists()


async def test_C12_a_log_that_begins_anew_keeps_no_unreadable_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name says, it was written for another one."""
    paths = await six_segments(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        Unreadable(patch, paths[2])
        log = await SegmentLog.open(tmp_path, bound=1 << 30)
        log.resume(START - 500, new_slot=True)
    assert [path for path in paths if path.exists()] == []
    assert (await SegmentLog.open(tmp_path, bound=1 << 30)).start == START - 500


async def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    """How much its disk has left nobody can say then."""
    log = await opened(tmp_path / "log")
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(RelayError, match="cannot be used: No such file"):
        assert log.free_bytes
