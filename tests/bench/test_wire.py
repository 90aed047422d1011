import pytest

from bench.wire import EventLines, ResponseParser

BODY = 'data: {"text":"çay"}\n\ndata: [DONE]\n\n'.encode()
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in (BODY[:3], BODY[3:20], BODY[20:]))
    + b"0\r\nTrailer: yes\r\n\r\n"
)
COUNTED = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED


def parse(*received: bytes) -> tuple[ResponseParser, bytes]:
    body = bytearray()
    parser = ResponseParser(body.extend)
    for part in received:
        assert not parser.done
        parser.feed(part)
    return parser, bytes(body)


@pytest.mark.parametrize(("response", "status"), [(CHUNKED, 200), (COUNTED, 404), (CONTINUED, 200)])
def test_a_response_cut_at_any_byte_is_the_same(response: bytes, status: int) -> None:
    for cut in range(1, len(response)):
        parser, body = parse(response[:cut], response[cut:])
        assert (parser.done, parser.status, parser.keeps_alive, body) == (True, status, True, BODY)


def test_a_response_may_come_byte_by_byte() -> None:
    parser, body = parse(*(CHUNKED[n : n + 1] for n in range(len(CHUNKED))))
    assert parser.done
    assert body == BODY


def test_events_cut_at_any_byte_are_the_same() -> None:
    for line_end in (b"\n", b"\r\n"):
        body = BODY.replace(b"\n", line_end)
        for cut in range(len(body)):
            events = EventLines()
            assert events.feed(body[:cut]) + events.feed(body[cut:]) == ['{"text":"çay"}'.encode(), b"[DONE]"]


def test_no_content_needs_no_length() -> None:
    parser, body = parse(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert parser.done
    assert body == b""


def test_connection_close_is_obeyed_and_a_body_without_length_ends_with_it() -> None:
    parser, _ = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert parser.done
    assert not parser.keeps_alive
    parser, body = parse(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)
    assert not parser.done
    assert parser.ends_whole()
    assert body == BODY


def test_a_chunked_body_that_breaks_off_is_not_whole() -> None:
    parser, _ = parse(CHUNKED[:-30])
    assert not parser.ends_whole()
