"""The client's side of HTTP/1.1 and of server-sent events, for bytes that are cut anywhere. It opens no sockets.

Small on purpose: the load generator shares its processor with the server that it measures.
"""

from collections.abc import Callable


class ResponseParser:
    """Parses one response; its body goes to `on_body` piece by piece. `done` says that the response is whole."""

    def __init__(self, on_body: Callable[[bytes], None]) -> None:
        self.status = 0
        self.begun = False
        self.done = False
        self.keeps_alive = True
        self._on_body = on_body
        self._buffer = bytearray()
        self._remaining = 0
        self._step = self._read_head

    def feed(self, received: bytes) -> None:
        self.begun = True
        self._buffer += received
        while not self.done and self._step():
            pass

    def ends_whole(self) -> bool:
        """Take note that the server closed the connection and say whether that ends the answer as it should."""
        self.keeps_alive = False
        self.done = self.done or self._step == self._read_until_closed
        return self.done

    def _line(self, ending: bytes = b"\r\n") -> bytes | None:
        end = self._buffer.find(ending)
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + len(ending)]
        return line

    def _read_head(self) -> bool:
        head = self._line(b"\r\n\r\n")
        if head is None:
            return False
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split()[1])
        if self.status < 200:  # 100 Continue and such: the real head follows
            return True
        headers = {name.lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines)}
        self.keeps_alive = headers.get(b"connection") != b"close" and not first.startswith(b"HTTP/1.0")
        if self.status in (204, 304):
            self.done = True
        elif headers.get(b"transfer-encoding") == b"chunked":
            self._step = self._read_size
        elif b"content-length" in headers:
            self._remaining = int(headers[b"content-length"])
            self.done = self._remaining == 0
            self._step = self._read_counted
        else:
            self._step = self._read_until_closed
        return True

    def _read_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._remaining = int(line.partition(b";")[0], 16)
        self._step = self._read_chunk if self._remaining else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._take(self._remaining)
        if self._remaining == 0:
            self._step = self._read_chunk_end
        return bool(self._buffer)

    def _read_chunk_end(self) -> bool:
        if self._line() is None:
            return False
        self._step = self._read_size
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        self.done = line == b""
        return line is not None

    def _read_counted(self) -> bool:
        self._take(self._remaining)
        self.done = self._remaining == 0
        return False

    def _read_until_closed(self) -> bool:
        self._take(len(self._buffer))
        return False

    def _take(self, at_most: int) -> None:
        if piece := bytes(self._buffer[:at_most]):
            del self._buffer[: len(piece)]
            self._remaining -= len(piece)
            self._on_body(piece)


class EventLines:
    """Cuts a body into what follows `data:`, one line an event, as OpenAI-compatible servers send them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
