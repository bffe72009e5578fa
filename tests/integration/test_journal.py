"""The journal keeps what it took, and tells a dead process's files from a living one's."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.store.journal import CLOSE, OPEN, Journal, orphans, read_frames


def frames_in(folder: Path) -> list[tuple[int, bytes]]:
    return [frame for path in sorted(folder.glob("*.journal")) for frame in read_frames(path)]


def test_frames_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    written = [(OPEN, b"a"), (CLOSE, b""), (OPEN, b"b" * 100_000)]
    for kind, payload in written:
        journal.append(kind, payload)
    assert frames_in(tmp_path) == written


def test_a_file_goes_once_all_its_frames_are_in_the_store(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=100)
    first = journal.append(OPEN, b"x" * 100)
    journal.append(OPEN, b"y")  # in a second file
    assert len(list(tmp_path.glob("*.journal"))) == 2
    first.settled += 1
    journal.release()
    assert frames_in(tmp_path) == [(OPEN, b"y")]


def test_closing_keeps_what_is_not_in_the_store(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    segment = journal.append(OPEN, b"kept")
    journal.append(OPEN, b"also")
    segment.settled += 1
    journal.close()
    assert frames_in(tmp_path) == [(OPEN, b"kept"), (OPEN, b"also")]


def test_files_of_a_living_process_are_no_orphans(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from tocsin.store.journal import Journal
        journal = Journal(Path(sys.argv[1]))
        journal.append(1, b"mine")
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert list(orphans(tmp_path)) == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (orphan,) = orphans(tmp_path)
        assert list(orphan.frames()) == [(1, b"mine")]
        orphan.done()
        assert list(tmp_path.glob("*.journal")) == []
    finally:
        process.kill()
        process.wait()


@settings(max_examples=60, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=200), min_size=1, max_size=8),
    cut=st.integers(min_value=0, max_value=2000),
)
def test_a_file_cut_anywhere_gives_a_prefix_of_its_frames(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for payload in payloads:
        journal.append(OPEN, payload)
    (path,) = folder.glob("*.journal")
    end = 12 + sum(9 + len(payload) for payload in payloads)
    path.write_bytes(path.read_bytes()[:cut])
    found = [payload for _, payload in read_frames(path)]
    assert found == payloads[: len(found)]
    if cut >= end:
        assert found == payloads


@settings(max_examples=60, deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5),
    data=st.data(),
)
def test_a_flipped_bit_ends_the_file_and_is_never_taken_for_a_frame(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for payload in payloads:
        journal.append(CLOSE, payload)
    (path,) = folder.glob("*.journal")
    damaged = bytearray(path.read_bytes())
    end = 12 + sum(9 + len(payload) for payload in payloads)
    position = data.draw(st.integers(12, end - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(damaged))
    found = [payload for _, payload in read_frames(path)]
    assert found == payloads[: len(found)]
    assert len(found) < len(payloads)
