"""Tests of the channel: whole messages of the right type, or the end of the channel."""

from __future__ import annotations

import math
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes import step
from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.params import ModelParams
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.messages import Add, Command, Ending, ErrorReport, Finish, LoadModel, Logged, Report

BIASED = replace(SamplingParams(), logit_bias=((3, -math.inf), (5, 2.5)), seed=2**32 - 1)


class Pair:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.raw = ours
        self.worker: Channel[Report] = Channel(ours, Report)
        self.engine: Channel[Command] = Channel(theirs, Command)

    def close(self) -> None:
        self.worker.close()
        self.engine.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_a_request_arrives_as_it_was_sent(pair: Pair) -> None:
    asked = GenerationRequest("id", (1, 2, 128_255), BIASED, 7, 1, ("\n", "ü🦙"), 3, False, 12.5)
    pair.worker.send(Add(9, asked, None))
    assert pair.engine.receive() == Add(9, asked, None)


def test_a_report_arrives_as_it_was_sent(pair: Pair) -> None:
    error = ErrorReport(kind="EngineFailed", message="It failed.", retry_after_s=3)
    sent = step(
        numbers=[1, 1, 2],
        tokens=[5, 6, 7],
        logprobs=[Logprob(5, -0.1, ((5, -0.1), (9, -2.0))), None, None],
        admitted=[(2, 40)],
        endings=[Ending(1, "error", 2, 0, error)],
    )
    pair.engine.send(sent)
    assert pair.worker.receive() == sent


def test_nothing_has_arrived(pair: Pair) -> None:
    assert pair.engine.receive(block=False) is None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_messages_that_arrive_in_any_pieces_are_whole(sizes: list[int]) -> None:
    pair = Pair()
    source = Pair()
    try:
        sent = [Finish(number) for number in range(10)]
        for message in sent:
            source.worker.send(message)
        data = source.engine._socket.recv(1 << 16)
        got: list[Command] = []
        at = 0
        for size in [*sizes, len(data)]:
            pair.raw.sendall(data[at : at + size])
            at += size
            while (arrived := pair.engine.receive(block=False)) is not None:
                got.append(arrived)
        assert got == sent
    finally:
        pair.close()
        source.close()


def test_a_message_that_is_cut_in_half_ends_the_channel(pair: Pair) -> None:
    pair.worker.send(Finish(1))
    whole = pair.engine._socket.recv(1 << 16)
    pair.raw.sendall(whole[:-1])
    pair.raw.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosed, match="in the middle of a message"):
        pair.engine.receive()


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\xa6Finish\xa1x", b"\x91\xa7Unknown", b"\x92\xa6Finish\xa1x"])
def test_something_that_is_no_message_ends_the_channel(pair: Pair, body: bytes) -> None:
    pair.raw.sendall(struct.pack("<I", len(body)) + body)
    with pytest.raises(ChannelClosed, match="cannot be read"):
        pair.engine.receive()


def test_the_end_of_the_other_side_ends_the_channel(pair: Pair) -> None:
    pair.engine.close()
    with pytest.raises(ChannelClosed):
        pair.worker.receive()
    with pytest.raises(ChannelClosed):
        pair.worker.send(Finish(1))


def test_a_message_that_is_larger_than_the_sockets_buffer_arrives(pair: Pair) -> None:
    asked = GenerationRequest("long", tuple(range(100_000, 500_000)))
    sending = threading.Thread(target=pair.worker.send, args=(Add(1, asked, None),))
    sending.start()
    assert pair.engine.receive() == Add(1, asked, None)
    sending.join()


def test_messages_of_several_threads_arrive_whole(pair: Pair) -> None:
    def send(thread: int) -> None:
        for i in range(5):
            pair.engine.send(Logged(logger=str(thread), level=i, event="x" * 400_000, fields={}))

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    arrived = [pair.worker.receive() for _ in range(15)]
    for thread in threads:
        thread.join()
    assert {type(message) for message in arrived} == {Logged}
    levels = [[message.level for message in arrived if message.logger == str(i)] for i in range(3)]  # type: ignore[union-attr]
    assert levels == [list(range(5))] * 3


def test_an_open_file_travels_with_its_message(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    pair.worker.send(LoadModel(str(path), ModelParams(), True, 20), fd)
    os.close(fd)
    assert isinstance(pair.engine.receive(), LoadModel)
    received = pair.engine.take_fd()
    assert received is not None
    assert os.read(received, 100) == b"weights"
    os.close(received)
    assert pair.engine.take_fd() is None


def test_a_wake_ends_a_receive_that_blocks_and_loses_no_message(pair: Pair) -> None:
    pair.engine.allow_wake()
    pair.engine.wake()
    pair.engine.wake()
    assert pair.engine.receive() is None
    pair.worker.send(Finish(1))
    assert pair.engine.receive() == Finish(1)
    waker = threading.Thread(target=pair.engine.wake)
    waker.start()
    assert pair.engine.receive() is None
    waker.join()
    pair.engine.wake()
    pair.worker.send(Finish(2))
    assert [pair.engine.receive(), pair.engine.receive()] == [None, Finish(2)]


def test_a_wake_after_the_end_does_nothing(pair: Pair) -> None:
    pair.engine.allow_wake()
    pair.engine.close()
    pair.engine.wake()
