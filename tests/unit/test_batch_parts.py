"""The parts of a batch alone: lines as a stream, what results say, admission, the machine, progress."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import pytest
from batch_help import parse
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastctr._core")

from fastctr.batch import machine
from fastctr.batch.admission import Admission, TooBig, budget_of
from fastctr.batch.errors import BatchError
from fastctr.batch.progress import Bar, clock, rate_text, summary
from fastctr.batch.reader import CHUNK, Items, Lines, count_lines, spooled
from fastctr.batch.results import Recorded, Writer, line_of, open_results
from fastctr.batch.retry import Retry
from fastctr.batch.table import Table
from fastctr.errors import SpecError


def lines_of(path, data: bytes, **kw):
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        lines = Lines(fd, "x", **kw)
        found = []
        while (item := lines.next()) is not None:
            found.append(item)
        return found
    finally:
        os.close(fd)


# ---- lines


def test_lines(tmp_path):
    assert lines_of(tmp_path / "x", b"\xef\xbb\xbfa\r\n\n  \nb \nc") == [(1, b"a"), (4, b"b"), (5, b"c")]
    assert lines_of(tmp_path / "x", b" a \0\0b\nc", end=b"\0", strip=False) == [(1, b" a "), (3, b"b\nc")]
    assert lines_of(tmp_path / "x", b"") == []


def test_lines_across_chunks(tmp_path):
    wanted = [b"x" * n for n in (CHUNK - 1, 1, CHUNK, 3 * CHUNK + 7, 5, 2 * CHUNK - 2)]
    assert [line for _, line in lines_of(tmp_path / "x", b"\n".join(wanted))] == wanted


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("fastctr.batch.reader.LONGEST", CHUNK)
    with pytest.raises(BatchError, match="line 2: is longer than"):
        lines_of(tmp_path / "x", b"a\n" + b"x" * (3 * CHUNK))


def test_a_waiting_reader_is_woken():
    read, write = os.pipe()
    wake_read, wake_write = os.pipe()
    try:
        lines = Lines(read, "x")
        lines.wake = wake_read
        os.write(write, b"one\ntw")
        assert lines.next() == (1, b"one")
        threading.Timer(0.1, os.write, (wake_write, b"x")).start()
        assert lines.next() is None
    finally:
        for fd in (read, write, wake_read, wake_write):
            os.close(fd)


def test_a_pipe_read_twice():
    read, write = os.pipe()
    os.write(write, b"a\nb\n")
    os.close(write)
    fd = spooled(read)
    lines = Lines(fd, "x")
    assert [lines.next(), lines.next(), lines.next()] == [(1, b"a"), (2, b"b"), None]
    lines.rewind()
    assert lines.next() == (1, b"a")
    for one in (read, fd):
        os.close(one)


def test_count_lines(tmp_path):
    for data, count in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)):
        (tmp_path / "x").write_bytes(data)
        assert count_lines(str(tmp_path / "x")) == count


def test_items():
    items = Items(["a", "b"])
    assert [items.next(), items.next(), items.next()] == [(1, "a"), (2, "b"), None]


# ---- the table


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**64 - 1) | st.integers(1, 50), st.integers(0, 2**64 - 1)), max_size=200))
def test_table_is_a_dict(pairs):
    table, wanted = Table(), dict(pairs)
    for key, value in pairs:
        table.put(key, value)
    assert {key: table.get(key) for key in wanted} == wanted and len(table) == len(wanted)
    assert table.get(12345678901) == wanted.get(12345678901)


def test_table_is_small():
    table = Table()
    for key in range(1, 100_001):
        table.put(key * 0x9E3779B97F4A7C15 % 2**64, key)
    assert table.get(77 * 0x9E3779B97F4A7C15 % 2**64) == 77
    assert sys.getsizeof(table._keys) + sys.getsizeof(table._values) < 5 << 20


# ---- results


def record(line, status="ok", name=None, digest=2, **more):
    return {"id": name, "line": line, "digest": f"{digest:016x}", "status": status, **more}


def load(path, retry_failed=False):
    fd = open_results(str(path), True, False)
    try:
        found = Recorded()
        found.load(fd, str(path), retry_failed)
        return found
    finally:
        os.close(fd)


def test_cut_off_anywhere(tmp_path):
    """After a crash the file may end at any byte: whole lines count, and the next one starts afresh."""
    lines = [line_of(record(n, stdout="é\n")) for n in (1, 2, 3)]
    data, path = b"".join(lines), tmp_path / "r"
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        found = load(path)
        whole = sum(1 for n in (1, 2, 3) if cut >= len(b"".join(lines[:n])) - 1)  # its newline may be missing
        assert [n for n in (1, 2, 3) if found.table.get(n) is not None] == list(range(1, whole + 1)), cut
        fd = open_results(str(path), True, False)
        Writer(fd, "r").put(None, record(9))
        os.close(fd)
        assert [json.loads(line)["line"] for line in path.read_bytes().splitlines()] == [*range(1, whole + 1), 9]
        assert found.damaged == 0


def test_zeros_at_the_end_and_rubbish_within(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(line_of(record(1)) + b"rubbish\n[]\n{}\n" + line_of(record(2)) + b"\0" * 4096)
    found = load(path)
    assert (found.table.get(1), found.table.get(2), found.torn, found.damaged) == (3, 3, 4096, 3)
    assert path.read_bytes().endswith(b"\n")


def test_what_counts_as_done(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(b"".join(line_of(each) for each in (
        record(1, "failed"), record(2, "cancelled"), record(3, "error", invalid=True), record(4, "error"), record(5),
    )))  # fmt: skip
    assert [n for n in range(1, 6) if load(path).table.get(n) is not None] == [1, 4, 5]
    assert [n for n in range(1, 6) if load(path, True).table.get(n) is not None] == [5]


def test_whose_file_it_is(tmp_path):
    path = str(tmp_path / "r")
    fd = open_results(path, False, False)
    with pytest.raises(BatchError, match="another batch"):
        open_results(path, True, False)
    os.write(fd, line_of(record(1)))
    os.close(fd)
    with pytest.raises(BatchError, match="has results already"):
        open_results(path, False, False)
    os.close(open_results(path, False, True))
    assert os.path.getsize(path) == 0
    with pytest.raises(BatchError, match="No such file"):
        open_results(str(tmp_path / "no/r"), False, False)


def test_no_room_is_said(tmp_path):
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(BatchError, match="No space left"):
        Writer(fd, "r").put(None, record(1))
    os.close(fd)


# ---- admission


def admission(memory="1g", pids=100):
    return Admission(memory, pids)


def test_limits_add_up():
    room = admission()
    big, small = parse({"argv": ["x"], "memory": "600m"}), parse({"argv": ["x"], "memory": "300m"})
    first = room.enter(big)
    second = room.enter(small)
    order = []

    def wait(job, name):
        need = room.enter(job)
        order.append(name)
        if need is not None:
            room.leave(need)

    threads = [threading.Thread(target=wait, args=(big, "big"))]
    threads[0].start()
    while not room._waiting:
        time.sleep(0.001)
    threads.append(threading.Thread(target=wait, args=(small, "small")))  # would fit, and waits its turn
    threads[1].start()
    while len(room._waiting) < 2:
        time.sleep(0.001)
    room.leave(second)
    assert order == []
    room.leave(first)
    for thread in threads:
        thread.join()
    assert sorted(order) == ["big", "small"] and (room.used_memory, room.used_pids, room.running) == (0, 0, 0)


def test_pids_add_up():
    room = admission(pids=10)
    job = parse({"argv": ["x"], "pids": 6})
    room.enter(job)
    assert not room._fits(1, 6) and room._fits(1, 4)


def test_too_big_is_refused_at_once():
    for job, words in (({"memory": "2g"}, "memory: 2147483648 is more than there is to give"), ({"pids": 101}, "pids")):
        with pytest.raises(TooBig, match=words):
            admission().enter(parse({"argv": ["x"], **job}))
    room = Admission()
    with pytest.raises(TooBig):
        room.enter(parse({"argv": ["x"], "memory": 1 << 50}))
    room.memory = 1 << 20  # what is free now is no reason to refuse, but to be alone
    assert room.enter(parse({"argv": ["x"], "memory": "2m"})) is not None
    assert not room._fits(1, 1)


def test_closing_lets_nobody_in():
    room = admission("100m")
    job = parse({"argv": ["x"], "memory": "100m"})
    room.enter(job)
    got = []
    thread = threading.Thread(target=lambda: got.append(room.enter(job)))
    thread.start()
    while not room._waiting:
        time.sleep(0.001)
    room.close()
    thread.join()
    assert got == [None] and room.enter(job) is None


def test_estimates_are_learned():
    room, job = admission(), parse({"argv": ["x"]})
    assert room.needs(job) == (32 << 20, 9)
    room.learn(job, 80 << 20, 3)
    assert room.needs(job) == (100 << 20, 4)
    room.learn(job, 1 << 20, 1)
    assert 90 << 20 < room.needs(job)[0] < 100 << 20
    room.learn(job, 8 << 30, 1)
    assert room.needs(job)[0] == 1 << 30  # alone, but not never
    room.learn(parse({"argv": ["x"], "memory": "1m"}), 1 << 30, None)


def test_budgets():
    assert budget_of("b", "50%", 1000 << 20) == 500 << 20 and budget_of("b", "2g", 0) == 2 << 30
    for text in ("0%", "101%", "x%", "lots", "1k"):
        with pytest.raises(SpecError):
            budget_of("b", text, 1 << 30)


def test_the_machine():
    total, available = machine.memory()
    assert 0 < available <= total < machine.NONE
    most, free = machine.processes()
    assert 0 < free <= most and 1 <= machine.cpus() <= os.cpu_count()


def test_quotas_of_control_groups(monkeypatch, tmp_path):
    for name, text in (("cpu.max", "150000 100000"), ("memory.max", "1000000"), ("memory.current", "600000"),
                       ("memory.stat", "anon 1\ninactive_file 100000\n"), ("pids.max", "30"), ("pids.current", "10")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_groups", lambda controller: [(str(tmp_path), True)])
    assert machine.memory() == (1000000, 500000) and machine.processes() == (30, 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine.cpus() == 2
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "_groups", lambda controller: [(str(tmp_path), False)])
    assert machine.cpus() == 8


# ---- retries and progress


def test_back_off():
    retry = Retry(5, frozenset(("oom",)), 0.5)
    assert [retry.after(n) for n in (1, 2, 3, 20, 10**6)] == [0.5, 1.0, 2.0, 60.0, 60.0]
    assert Retry(1, frozenset(), 300.0).after(3) == 300.0


class Screen:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def fileno(self):
        raise OSError


def test_bar():
    screen = Screen()
    bar = Bar(screen, 10)
    bar._began -= 2
    bar.update({"ok": 3, "failed": 1, "cancelled": 0}, 1, 2)
    assert screen.text == "\r\x1b[K[==============>              ]  50% 5/10  1 failed  2 running  2.0/s  ETA 2.5s"
    assert len(screen.text) == 4 + 79
    assert bar.text({"ok": 3}, 0, 1, width=40).startswith(" 30% 3/10  0 failed")
    bar.say("hello")
    assert screen.text.endswith("\r\x1b[Khello\n")
    assert Bar(screen, None).text({"ok": 3}, 0, 1, "stopping") == "3 done  0 failed  1 running  0.0/min  stopping"


def test_words():
    assert [clock(n) for n in (0.04, 9.9, 61, 3723)] == ["0.0s", "9.9s", "1:01", "1:02:03"]
    assert [rate_text(n) for n in (1234.5, 9.87, 0.05)] == ["1234/s", "9.9/s", "3.0/min"]
    assert summary({"ok": 998, "failed": 2}, 0, 2) == "1000 jobs in 2.0s (500/s): 998 ok, 2 failed"
    assert summary({"ok": 0}, 7, 0.1) == "0 jobs in 0.1s: nothing to do; 7 had a result already"
