"""A channel for messages over a stream socket: each message is its length, four bytes, and then its MessagePack.

A message may carry one file descriptor.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Channel", "ChannelClosed"]

_LENGTH = struct.Struct("<I")
_FD = struct.Struct("@i")
_FD_ROOM = socket.CMSG_LEN(_FD.size)
_PIECE = 1 << 18
MessageT = TypeVar("MessageT")


class ChannelClosed(Exception):
    """The other side has closed the channel or sent something that is not a message."""


class Channel(Generic[MessageT]):
    """One end of a channel. Any thread sends, and one receives."""

    def __init__(self, sock: socket.socket, received: Any) -> None:
        """`received` is the type of the messages that arrive, a union of structs."""
        self._socket = sock
        # The log of a thread that prepares requests is sent between the reports of the loop.
        self._sending = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(received)
        self._arrived = bytearray()
        self._fds: deque[int] = deque()
        self._wakes: int | None = None

    def allow_wake(self) -> None:
        """Let other threads wake the one that receives."""
        self._wakes = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._either = select.poll()
        self._either.register(self._socket, select.POLLIN)
        self._either.register(self._wakes, select.POLLIN)

    def wake(self) -> None:
        """Make a `receive` that blocks, or the next one that would, return None. From any thread."""
        if (wakes := self._wakes) is not None:
            with contextlib.suppress(OSError):  # it was closed meanwhile
                os.eventfd_write(wakes, 1)

    def send(self, message: msgspec.Struct, fd: int | None = None) -> None:
        """Send a message, with a descriptor if `fd` is given. Raises ChannelClosed."""
        try:
            with self._sending:
                body = self._encoder.encode(message)
                frame = _LENGTH.pack(len(body)) + body
                if fd is not None:
                    n = socket.send_fds(self._socket, [frame], [fd])
                    frame = frame[n:]
                self._socket.sendall(frame)
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self, *, block: bool = True, most_s: float | None = None) -> MessageT | None:
        """Return the next message.

        Returns None if none has arrived and `block` is False, or after `wake`, or after about `most_s` seconds if
        `allow_wake` was called. Raises ChannelClosed.
        """
        while (message := self._next()) is None:
            if block and self._was_woken(most_s):
                return None
            if not self._read(block):
                return None
        return message

    def take_fd(self) -> int | None:
        """Return the oldest descriptor that arrived. The caller must close it."""
        return self._fds.popleft() if self._fds else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._wakes is not None:
            wakes, self._wakes = self._wakes, None
            os.close(wakes)

    def _was_woken(self, most_s: float | None) -> bool:
        """Wait until there is something to read. Returns whether `wake` was called or the time is over."""
        if self._wakes is None:
            return False
        ready = self._either.poll(None if most_s is None else most_s * 1000)
        if ready and all(fd != self._wakes for fd, _ in ready):
            return False
        with contextlib.suppress(OSError):
            os.eventfd_read(self._wakes)
        return True

    def _next(self) -> MessageT | None:
        if len(self._arrived) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._arrived)[0]
        if len(self._arrived) < end:
            return None
        with memoryview(self._arrived) as view:
            try:
                message = self._decoder.decode(view[_LENGTH.size : end])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ChannelClosed(f"a message cannot be read: {error}") from None
        del self._arrived[:end]
        return message

    def _read(self, block: bool) -> bool:
        """Read what has arrived. Returns False if nothing has."""
        try:
            # Not socket.recv_fds, which ignores flags before Python 3.13.
            data, ancillary, _, _ = self._socket.recvmsg(_PIECE, _FD_ROOM, 0 if block else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        if not data:
            raise ChannelClosed("in the middle of a message" if self._arrived else "the other side has ended")
        for level, kind, fds in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._fds.extend(_FD.unpack(fds))
        self._arrived += data
        return True
