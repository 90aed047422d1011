"""Tests of images on their way to the engine process: they travel beside the message, and arrive whole."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from msgspec.structs import replace

from tests.fakes import request
from worker_gguf.errors import ContextLengthExceeded
from worker_gguf.link.channel import Channel
from worker_gguf.link.errors import error_of, report_of
from worker_gguf.link.images import packed, unpacked
from worker_gguf.link.messages import Add, Command
from worker_gguf.link.sender import Sender

IMAGES = (b"first" * 1000, b"", os.urandom(3 << 20))


def n_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_packed_arrives_and_no_descriptor_stays_open() -> None:
    before = n_open()
    command = Add(1, replace(request("a"), images=IMAGES), None)
    small, fd = packed(command)
    assert small.request.images == ()
    assert unpacked(small, fd) == command
    assert n_open() == before


def test_a_sender_sends_the_images_of_a_request_as_a_file() -> None:
    ours, theirs = socket.socketpair()
    channel: Channel[Command] = Channel(theirs, Command)
    sending: Channel[Command] = Channel(ours, Command)
    sender = Sender(sending)
    for number in (1, 2):
        sender.send(Add(number, replace(request(str(number)), images=IMAGES[: number + 1]), None))
    sender.send(Add(3, request("3"), None))
    for number in (1, 2):
        arrived = channel.receive()
        assert isinstance(arrived, Add)
        fd = channel.take_fd()
        assert fd is not None
        assert unpacked(arrived, fd).request.images == IMAGES[: number + 1]
    last = channel.receive()
    assert isinstance(last, Add)
    assert last.image_sizes == ()
    assert channel.take_fd() is None
    sender.stop()
    sending.close()
    channel.close()


def test_the_lengths_of_a_prompt_that_is_too_long_come_back() -> None:
    error = ContextLengthExceeded(300, 256, param="messages")
    back = error_of(report_of(error))
    assert isinstance(back, ContextLengthExceeded)
    assert (back.message, back.param, back.n_prompt_tokens, back.n_ctx) == (error.message, "messages", 300, 256)
