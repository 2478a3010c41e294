"""
The client of gateways and webhooks against a server that sends bytes: odd answers, and exact addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from processor.gateways.answers import HEAD_BYTES_MAX
from processor.gateways.client import Client, Reply, exact_url

if TYPE_CHECKING:
    from collections.abc import Sequence

PAID = b'{"reference": "T-1"}'
LENGTH = b"Content-Length: 20\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
REST = LENGTH + b"\r\n" + PAID
TLS = ssl.create_default_context()
#: The timeout of a call, for answers that do not end.
TIMEOUT_SECONDS = 0.3

#: Answers whose body arrives, too.
WHOLE = {
    "plain": OK + REST,
    "a line of 8,200 characters": OK + b"X: " + b"x" * 8_200 + b"\r\n" + REST,
    "a line of almost 1 MiB": OK + b"X: " + b"x" * (HEAD_BYTES_MAX - 100) + b"\r\n" + REST,
    "130 lines": OK + b"X: x\r\n" * 130 + REST,
    "20,000 lines": OK + b"X: x\r\n" * 20_000 + REST,
    "a long phrase": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n" + REST,
    "no phrase": b"HTTP/1.1 200\r\n" + REST,
    "a phrase in Latin-1": b"HTTP/1.1 200 gr\xfcn\r\n" + REST,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + PAID,
    "lines without CR": (OK + REST).replace(b"\r\n", b"\n"),
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    + OK
    + REST,
    "a folded line": OK + b"X: a\r\n  b\r\n" + REST,
    "bytes over 0x7f": OK + b"X: \xff\xfe\r\n" + REST,
    "an odd cookie": OK + b"Set-Cookie: \xff;;;=;\r\n" + REST,
    "Connection: close": OK + b"Connection: close\r\n" + REST,
    "no length": OK + b"\r\n" + PAID,
    "a length that is too long": OK + b"Content-Length: 100\r\n\r\n" + PAID,
    "chunks with a trailer": OK
    + b"Transfer-Encoding: chunked\r\n\r\n14\r\n"
    + PAID
    + b"\r\n0\r\nX: "
    + b"y" * 9_000
    + b"\r\n\r\n",
    "chunks that break off": OK + b"Transfer-Encoding: chunked\r\n\r\n14\r\n" + PAID + b"\r\n",
    "declared as compressed": OK + b"Content-Encoding: gzip\r\n" + REST,
}
#: Answers of which only the status can be read.
STATUS_ALONE = {
    "a head of 10 MB": OK + b"X: " + b"x" * 10_000_000 + b"\r\n" + REST,
    "300,000 lines": OK + b"X: x\r\n" * 300_000 + REST,
    "a phrase without end": b"HTTP/1.1 200 " + b"x" * 2 * HEAD_BYTES_MAX,
    "two spaces": b"HTTP/1.1  200 OK\r\n" + REST,
    "HTTP/2": b"HTTP/2 200 OK\r\n" + REST,
    "two lengths": OK + b"Content-Length: 19\r\n" + REST,
    "a length and chunks": OK + b"Transfer-Encoding: chunked\r\n" + REST,
    "a length below zero": OK + b"Content-Length: -5\r\n\r\n",
    "chunks that are none": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a NUL": OK + b"X: a\0b\r\n" + REST,
    "a line without a colon": OK + b"garbage\r\n" + REST,
    "a head that breaks off": OK + b"X: a",
    "an interim answer before a broken head": b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"garbage\r\n\r\n",
    "a body that is too long": OK + b"\r\n" + b"x" * 70_000,
}
NONE = {
    "no byte": b"",
    "not HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "half a status": b"HTTP/1.1 20",
    "a status without end": b"HTTP/1.1 200",
    "only an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
    "2 MiB that are not HTTP": b"x" * 2 * HEAD_BYTES_MAX,
}


@pytest.fixture(autouse=True)
def _one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Load the certificates of the system once: most of the time of a test would be spent on them.
    """
    monkeypatch.setattr("ssl.create_default_context", lambda: TLS)


def call(
    *parts: bytes, path: str = "/pay", hangs: bool = False, times: int = 1, last: bytes | None = None
) -> tuple[list[Reply | Exception], list[bytes]]:
    """Call a server that sends these parts. Returns the replies or faults, and the request lines that it received."""
    lines: list[bytes] = []
    handlers: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                lines.append(head.partition(b"\r\n")[0])
                for part in [last] if last is not None and len(lines) == times else parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                if hangs:
                    await reader.read()
                if times == 1:
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def ask() -> list[Reply | Exception]:
        client = Client(TIMEOUT_SECONDS if hangs else 10.0, connections_max=4)
        replies: list[Reply | Exception] = []
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
            for _ in range(times):
                try:
                    replies.append(await client.post(url, b"{}", {}, body_bytes_max=64 * 1024))
                except (aiohttp.ClientError, OSError) as fault:
                    replies.append(fault)
            await client.close()
            await asyncio.gather(*handlers)
        return replies

    return asyncio.run(ask()), lines


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
def test_an_answer_with_an_odd_form_is_an_answer(answer: bytes) -> None:
    """
    Status and body are read, however the head is written.
    """
    assert call(answer)[0] == [Reply(200, PAID)]


@pytest.mark.parametrize("answer", STATUS_ALONE.values(), ids=STATUS_ALONE)
def test_an_answer_that_is_broken_counts_by_its_status(answer: bytes) -> None:
    """
    The status has arrived, so the other side has acted.
    """
    assert call(answer)[0] == [Reply(200, b"")]


@pytest.mark.parametrize("answer", NONE.values(), ids=NONE)
def test_without_a_status_there_is_no_answer(answer: bytes) -> None:
    """
    Bytes that are no status line, and interim answers, say nothing.
    """
    [fault] = call(answer)[0]

    assert isinstance(fault, Exception)


@pytest.mark.parametrize(
    ("parts", "reply"),
    [
        ([OK + b"X: a"], Reply(200, b"")),
        ([OK + b"Content-Length: 100\r\n\r\n" + PAID], Reply(200, PAID)),
        ([b"HTTP/1.1 503 "], Reply(503, b"")),
    ],
)
def test_a_status_counts_when_the_rest_does_not_come_in_time(parts: Sequence[bytes], reply: Reply) -> None:
    """
    The timeout ends the call, and what has arrived counts.
    """
    assert call(*parts, hangs=True)[0] == [reply]


def test_an_answer_may_come_byte_by_byte() -> None:
    """
    The status is found wherever the bytes are cut.
    """
    answer = b"HTTP/1.1 103 A\r\n\r\n" + OK + b"garbage\r\n\r\n"

    assert call(*(bytes([byte]) for byte in answer))[0] == [Reply(200, b"")]


def test_each_answer_on_a_connection_is_read_by_itself() -> None:
    """
    A status of the answer before never counts for the next call, and a broken answer still counts by its own.
    """
    replies, lines = call(OK + REST, times=3)
    broken, _ = call(OK + REST, times=2, last=b"HTTP/1.1 503 X\r\ngarbage\r\n\r\n")
    [first, none], _ = call(OK + REST, times=2, last=b"not HTTP\r\n\r\n")

    assert replies == [Reply(200, PAID)] * 3
    assert len(lines) == 3
    assert broken == [Reply(200, PAID), Reply(503, b"")]
    assert first == Reply(200, PAID)
    assert isinstance(none, Exception)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("", "/"),
        ("?", "/?"),
        ("/q?", "/q?"),
        ("?a=b", "/?a=b"),
        *(
            (target, target)
            for target in (
                "/q?sp=%2Fa%2Fb",
                "/q?c=%3A&t=%7E&s=%20+%2B",
                "/q?a[]=1&a[b]=2",
                "/a/../b/./c/",
                "//double//slash",
                "/%61%2e%2E/%7euser",
                "/a;b=c,d?x=y;z&&=&q=a?b",
                "/%zz%?100%",
                "/'\"<>^`{|}",
            )
        ),
        ("/a?b#fragment", "/a?b"),
        ("/ü?q=✓", "/%C3%BC?q=%E2%9C%93"),
        ("/a b\r\nX: y", "/a%20b%0D%0AX:%20y"),
    ],
)
def test_an_address_is_called_as_it_is_written(written: str, sent: str) -> None:
    """
    Path and query arrive byte for byte. Only what HTTP cannot carry is percent-encoded.
    """
    replies, [line] = call(OK + REST, path=written)

    assert line.decode() == f"POST {sent} HTTP/1.1"
    assert replies == [Reply(200, PAID)]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://shop.example/a", "shop.example", 443),
        ("HTTPS://Shop.Example:8443/a", "shop.example", 8443),
        ("http://[::1]:9/a", "::1", 9),
        ("https://münchen.example/a", "xn--mnchen-3ya.example", 443),
    ],
)
def test_the_host_of_an_address_is_the_written_one(url: str, host: str, port: int) -> None:
    """
    The exact path changes nothing about the name that is resolved and checked.
    """
    exact = exact_url(url)

    assert (exact.raw_host, exact.port, exact.raw_path_qs) == (host, port, "/a")


@pytest.mark.parametrize("url", ["", "shop.example/a", "//shop.example/a", "http:/a", "https://h:99999/"])
def test_what_is_no_url_is_not_called(url: str) -> None:
    """
    A ValueError stands for it, as for the other faults of a call.
    """
    with pytest.raises(ValueError, match=r"."):
        exact_url(url)
