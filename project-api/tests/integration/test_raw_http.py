"""HTTP that no client library would send: chunked, slow, truncated and malformed, over a raw socket.

Whatever arrives, the answer is a 4xx or a closed connection, nothing is logged as unhandled, and the next client
is served.
"""

import json
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from processes import Api

POST = b"POST /v1/project-worker/integer-multiplication HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"multiplicand": 6, "multiplier": 7}'


@pytest.fixture
def connection(api: Api, client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", api.port), timeout=15) as connected:
        yield connected
    answer = client.post("/v1/project-worker/integers-sum", json={"integers": [1, 2]})
    assert answer.json()["result"] == 3
    assert "unhandled error" not in api.log.read_text()
    assert "Traceback" not in api.log.read_text()


def read_responses(connection: socket.socket, count: int = 1) -> list[tuple[int, bytes]]:
    """Read until `count` whole responses, or the end of the connection; return status and body of each."""
    data = b""
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        piece = connection.recv(65536)
        data += piece
        while match := re.match(rb"HTTP/1\.1 (\d{3})[^\r]*\r\n(.*?)\r\n\r\n", data, re.DOTALL):
            length = re.search(rb"content-length: (\d+)", match[2], re.IGNORECASE)
            end = match.end() + int(length[1]) if length else len(data)
            if len(data) < end:
                break
            found.append((int(match[1]), data[match.end() : end]))
            data = data[end:]
        if not piece:
            break
    return found


def test_a_chunked_body(connection: socket.socket) -> None:
    connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(BODY), 5):
        piece = BODY[start : start + 5]
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    connection.sendall(b"0\r\n\r\n")
    [(status, body)] = read_responses(connection)
    assert (status, json.loads(body)["result"]) == (200, 42)


def test_a_slow_body(connection: socket.socket) -> None:
    connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY))
    for byte in BODY:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)  # the slowness is what is tested
    [(status, body)] = read_responses(connection)
    assert (status, json.loads(body)["result"]) == (200, 42)


def test_two_requests_in_one_packet_are_answered_in_order(connection: socket.socket) -> None:
    other = BODY.replace(b"6", b"5")
    request = POST + b"Content-Length: %d\r\n\r\n"
    connection.sendall(request % len(BODY) + BODY + request % len(other) + other)
    assert [json.loads(body)["result"] for _, body in read_responses(connection, 2)] == [42, 35]


@pytest.mark.parametrize("sent", [0, 10, len(BODY) - 1])
def test_a_truncated_body(connection: socket.socket, sent: int) -> None:
    connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:sent])
    connection.shutdown(socket.SHUT_WR)
    assert [status for status, _ in read_responses(connection)] in ([], [400])


def test_a_truncated_chunk(connection: socket.socket) -> None:
    connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n20\r\n{")
    connection.shutdown(socket.SHUT_WR)
    assert [status for status, _ in read_responses(connection)] in ([], [400])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nbad name : x\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n" + BODY,
        POST + b"Content-Length: abc\r\n\r\n" + BODY,
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY,
    ],
)
def test_malformed_http_is_400(connection: socket.socket, request_bytes: bytes) -> None:
    connection.sendall(request_bytes)
    connection.shutdown(socket.SHUT_WR)
    assert [status for status, _ in read_responses(connection)] == [400]


def test_an_endless_body_is_cut_off(connection: socket.socket) -> None:
    connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    try:
        for _ in range(1000):  # 64 MiB at most; the limit is 256 KiB
            connection.sendall(chunk)
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        pytest.fail("64 MiB were taken")
