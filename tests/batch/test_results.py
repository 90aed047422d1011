"""Tests of the file of results: whole lines only, on full disks and after kills too."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from tests.batch.conftest import lines, write_requests
from tests.small_disk import small_disk
from worker_gguf.batch.lines import Line
from worker_gguf.batch.request_file import RequestFile
from worker_gguf.batch.results import ResultFile, result_id
from worker_gguf.errors import BatchError

LINES = lines(*range(1, 10))


def result(line: Line, text: str = "answer") -> bytes:
    return json.dumps({"id": result_id(line), "custom_id": text}, separators=(",", ":")).encode() + b"\n"


def write(path: Path, *numbers: int) -> None:
    with closing(ResultFile(path, len(LINES))) as results:
        for number in numbers:
            results.append(LINES[number - 1], result(LINES[number - 1]))


def append_all(results: ResultFile, text: str) -> None:
    for line in LINES:
        results.append(line, result(line, text))


def answered(path: Path) -> set[int]:
    with closing(ResultFile(path, len(LINES))) as results:
        return {line.number for line in LINES if line.number in results.answered}


def test_a_new_file_is_empty_and_a_result_is_in_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with closing(ResultFile(path, 9)) as results:
        assert len(results.answered) == 0
        results.append(LINES[2], result(LINES[2]))
        assert path.read_bytes() == result(LINES[2])
        assert 3 in results.answered


@pytest.mark.parametrize("torn", [b"{", b'{"id":"batch_req_5_', result(LINES[4])[:-1], b"\0" * 5000, b"x" * 200_000])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "out.jsonl"
    write(path, 3, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert answered(path) == {1, 3}
    assert path.read_bytes() == whole
    path.write_bytes(torn)
    assert answered(path) == set()
    assert path.read_bytes() == b""


def test_results_are_appended_after_those_of_earlier_runs(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, 3, 1)
    write(path, 2)
    assert path.read_bytes() == result(LINES[2]) + result(LINES[0]) + result(LINES[1])


def test_a_removed_line_is_unanswered_and_another_form_of_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, 1, 2, 3)
    kept = [json.loads(line) for line in path.read_text().splitlines() if "_2_" not in line]
    path.write_text("".join(json.dumps(dict(reversed(value.items()))) + "\n\n" for value in kept))
    assert answered(path) == {1, 3}


@pytest.mark.parametrize("line", ["notes", "{}", '{"id": "chatcmpl-1"}', "[1]", '{"id": null}', "[" * 100_000])
def test_a_file_with_other_lines_is_refused_and_stays_as_it_is(tmp_path: Path, line: str) -> None:
    path = tmp_path / "out.jsonl"
    content = result(LINES[0]) + line.encode() + b"\n"
    path.write_bytes(content)
    with pytest.raises(BatchError, match=r"Line 2 of the output .*out\.jsonl is not a result"):
        ResultFile(path, 9)
    assert path.read_bytes() == content


def test_an_answer_to_a_request_beyond_the_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, 9)
    with pytest.raises(BatchError, match="answers request 9, but the input has 8 requests"):
        ResultFile(path, 8)


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with closing(ResultFile(path, 9)), pytest.raises(BatchError, match="Another process writes"):
        ResultFile(path, 9)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/full"), Path("/dev/null")):
        with pytest.raises(BatchError, match="is not a plain file"):
            ResultFile(path, 9)
    for path in (tmp_path, tmp_path / "none" / "out.jsonl"):
        with pytest.raises(BatchError, match="cannot be opened"):
            ResultFile(path, 9)


@contextmanager
def small_files(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("place", [small_disk, small_files])
def test_a_full_disk_leaves_whole_lines_and_the_next_run_goes_on(
    tmp_path: Path, place: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    long = "x" * 3000  # some results fit, and the last one fits in part
    with place(tmp_path / "full") as folder:
        path = folder / "out.jsonl"
        results = ResultFile(path, len(LINES))
        with pytest.raises(BatchError, match=r"make room .* goes on after the \d answers"):
            append_all(results, long)
        n_written = len(results.answered)
        assert 0 < n_written < len(LINES)
        assert path.read_bytes() == b"".join(result(line, long) for line in LINES[:n_written])
        results.append(LINES[-1], result(LINES[-1]))  # a short one has room: the file is still in order
        results.close()
        assert answered(path) == {*range(1, n_written + 1), 9}


def test_the_input_must_still_have_the_answered_lines(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    source = write_requests(tmp_path / "in.jsonl", range(1, 10))
    write(output, 5, 2, 1)

    def check() -> None:
        with closing(RequestFile(source, 1000)) as requests, closing(ResultFile(output, 9)) as results:
            requests.check(results.answered, output)

    check()
    write_requests(source, [2, 1, 30, 40, 5, 6, 7, 8, 9, 10])  # other lines may change, and answered ones change places
    check()
    for changed in ([1, 2, 3, 4, 50, 6, 7, 8, 9], range(2, 11), [0, *range(1, 10)]):
        write_requests(source, changed)
        with pytest.raises(BatchError, match="are not to the requests of"):
            check()


def test_the_input_gives_the_lines_without_an_answer(input_path: Path, tmp_path: Path) -> None:
    with closing(RequestFile(input_path, 1000)) as requests:
        assert requests.n_requests == 5
        with closing(ResultFile(tmp_path / "out.jsonl", 5)) as results:
            for line in list(requests.lines())[1:3]:
                results.append(line, result(line))
            assert [line.number for line in requests.unanswered(results.answered)] == [1, 4, 5]


def test_an_input_that_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in [
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "is not a plain file"),
    ]:
        with pytest.raises(BatchError, match=said):
            RequestFile(path, 1000)
