"""Conversations with a server: what is plain, what is rare, and what is wrong."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.serving.conversing import (
    Step,
    go_deaf,
    half_close,
    leave,
    listen_again,
    reset,
)

HOST = "Host: test"


def get(path: str = "/", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Return a request without a body."""
    lines = [f"{method} {path} HTTP/{version}", HOST, *headers, "", ""]
    return "\r\n".join(lines).encode("latin1")


def post(path: str = "/", body: bytes = b"", *headers: str, **options: str) -> bytes:
    """Return a request with a body of a known length."""
    length = f"Content-Length: {len(body)}"
    return get(path, length, *headers, **{"method": "POST", **options}) + body


def chunked(path: str = "/", *chunks: bytes) -> bytes:
    """Return a request with a body in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return get(path, "Transfer-Encoding: chunked", method="POST") + body


def raw(*lines: bytes | str) -> bytes:
    """Return lines as they stand, and an empty one."""
    return b"\r\n".join(
        line.encode("latin1") if isinstance(line, str) else line for line in (*lines, "", "")
    )


def by(data: bytes, size: int) -> list[Step]:
    """Return data in packets of a size."""
    return [data[begin : begin + size] for begin in range(0, len(data), size)]


FORM = "Content-Type: application/x-www-form-urlencoded"
GZIPPED = gzip.compress(b"a=1&b=2" * 20, mtime=0)
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nfile\r\n--x--\r\n'
)
BIG = 70_000


@dataclass(frozen=True)
class Conversation:
    """What a client sends and does, and the server's options."""

    name: str
    steps: Sequence[Step]
    options: dict[str, Any] = field(default_factory=dict)
    app: str = "application"

    def __str__(self) -> str:
        return self.name


def _plain() -> list[Conversation]:
    c = Conversation
    return [
        c("get", [get()]),
        c("head", [get(method="HEAD")]),
        c("post", [post(body=b"a=1&b=2"), get("/next")]),
        c("form", [post("/?q=0&a=2", b"a=1&b=\xff", FORM)]),
        c("multipart", [post("/", MULTIPART, "Content-Type: multipart/form-data; boundary=x")]),
        c("multipart that is none", [post("/", b"x", "Content-Type: multipart/form-data"), get()]),
        c("form in gzip", [post("/", GZIPPED, FORM, "Content-Encoding: gzip"), get()]),
        c("length 0", [post(), get()]),
        c("body of a get", [post(body=b"abc", method="GET"), get()]),
        c("body of 64 KiB", [post(body=b"x" * 65536), get()]),
        c("body over 64 KiB", [post(body=b"x" * BIG), get()]),
        c("body over 64 KiB in packets", [*by(post(body=b"x" * BIG), 30_000), get()]),
        c("body in packets", [*by(post(body=b"x" * 60_000), 9_000), get()]),
        c("head and body apart", [post(body=b"")[:-2] + b"", b"\r\n", get()]),
        c("head, then body", [get("/", "Content-Length: 3", method="POST"), b"abc", get()]),
        c("bytewise", by(post("/x?a=b", b"abc") + get("/next"), 1)),
        c("three", [get("/1"), get("/2"), get("/3")]),
        c("methods", [get(method=each) for each in ("PUT", "PATCH", "DELETE", "OPTIONS")]),
        c("etag", [get("/", 'If-None-Match: "d8a52b4e5ec8ae4e4cd2ef8c4ccd1a8eb6bd1f07"', "X: *")]),
        c("etag of any", [get("/", "If-None-Match: *")]),
        c("none", [get("/none")]),
        c("repeated headers", [get("/", "A: 1", "a: 2", "Cookie: x=1", "cookie: y=2")]),
        c("empty headers", [get("/", "A:", "B: ", "C: \t ")]),
        c("spaces around values", [get("/", "A: \t a b \t ", "B:b")]),
        c("latin1", [get("/", "A: \xe9\xff", "B: \xa0x\x85")]),
        c("non-ascii in the url", [get("/\xe9?\xe9=\xff"), get()]),
        c("escapes in the url", [get("/%C3%A9?a=%C3%A9&b=%FF&c=%zz")]),
        c("bad escapes in a path", [get("/status/%FF"), get()]),
        c("absolute uri", [get("http://test/x?y"), get("http://other:80/"), get("ftp://x/")]),
        c("options *", [get("*", method="OPTIONS"), get()]),
        c("connect", [get("test:80", method="CONNECT"), get()]),
        c("fragment in the url", [get("/a#b"), get()]),
        c("odd urls", [get(path) for path in ("//", "/a//b", "/?", "/??a", "/;x", "/a:b", "/[x]")]),
        c("url without a slash", [get("x"), get()]),
        c("url with odd characters", [get('/"<>\\^`{|}~'), get()]),
        c("hosts with ports", [raw("GET / HTTP/1.1", "Host: Test:80"), get()]),
        c("xheaders", [get("/", "X-Real-IP: 1.2.3.4", "X-Scheme: https")], {"xheaders": True}),
        c(
            "xheaders are of one request",
            [get("/", "X-Forwarded-For: 1.2.3.4, 5.6.7.8", "X-Forwarded-Proto: https"), get()],
            {"xheaders": True, "trusted_downstream": ["5.6.7.8"]},
        ),
        c("xheaders not wanted", [get("/", "X-Real-IP: 1.2.3.4")]),
        c("protocol", [get()], {"protocol": "https"}),
        c("no_keep_alive", [get() + get()], {"no_keep_alive": True}),
        c("chunk_size", [post(body=b"abcdefgh"), post("/stream", b"abcde")], {"chunk_size": 3}),
    ]


def _endings() -> list[Conversation]:
    c = Conversation
    kept = ("close", "Close", "CLOSE", "keep-alive", "keep-alive, close", "close, x", "foo", "")
    return [
        *(c(f"1.1, Connection: {how}", [get("/", f"Connection: {how}"), get()]) for how in kept),
        *(
            c(f"1.0, Connection: {how}", [get("/", f"Connection: {how}", version="1.0"), get()])
            for how in (*kept, "Keep-Alive")
        ),
        c("1.0", [get(version="1.0"), get()]),
        c("1.0 without a host", [raw("GET / HTTP/1.0"), get()]),
        c("two Connection headers", [get("/", "Connection: close", "Connection: close"), get()]),
        c("1.0 post", [post("/", b"abc", "Connection: keep-alive", version="1.0"), get()]),
        c(
            "1.0 post without a length",
            [get("/", "Connection: keep-alive", method="POST", version="1.0"), get()],
        ),
        c("1.0 delete", [get("/", "Connection: keep-alive", method="DELETE", version="1.0")]),
        c("1.0 chunks", [get("/chunks", version="1.0")]),
        c("1.0 chunks, kept", [get("/chunks", "Connection: keep-alive", version="1.0"), get()]),
        c("1.0 head", [get("/", "Connection: keep-alive", method="HEAD", version="1.0"), get()]),
        c("close in the middle of three", [get() + get("/", "Connection: close") + get()]),
        c("half-closed", [get(), half_close]),
        c("half-closed at once", [get("/1") + get("/2") + get("/3"), half_close]),
        c("half-closed late", [get("/late?rounds=2"), half_close]),
        c("half-closed at work", [get("/wait"), half_close]),
        c("half-closed in a head", [get() + b"GET / HT", half_close]),
        c(
            "half-closed in a body",
            [get("/", "Content-Length: 5", method="POST") + b"ab", half_close],
        ),
        c(
            "half-closed in a streamed body",
            [get("/stream", "Content-Length: 5", method="POST") + b"ab", half_close],
        ),
        c("half-closed in an answer", [get("/wait?begin=1"), half_close]),
        c("half-closed and silent", [half_close]),
        c("reset", [get(), reset]),
        c("reset at work", [get("/wait"), reset]),
        c("reset in an answer", [get("/wait?begin=1"), reset]),
        c("reset in a head", [b"GET / HT", reset]),
        c("reset in a body", [get("/", "Content-Length: 5", method="POST") + b"ab", reset]),
        c(
            "reset in a streamed body",
            [get("/stream", "Content-Length: 5", method="POST") + b"ab", reset],
        ),
        c(
            "reset in an asynchronous body",
            [get("/stream?async=1", "Content-Length: 5", method="POST") + b"ab", reset],
        ),
        c("reset in a large answer", [go_deaf, get("/large?size=20000000"), reset]),
        c("gone in a large answer", [go_deaf, get("/large?size=20000000"), leave]),
        c("gone in several large answers", [go_deaf, get("/large?size=9000000&times=4"), leave]),
        c("gone with requests left", [go_deaf, get("/large?size=9000000") + get(), leave]),
        c("gone at work", [post("/wait", b"abc"), leave]),
        c("gone and silent", [leave]),
        c("slow to hear", [go_deaf, get("/large?size=9000000&times=2") + get(), listen_again]),
        c(
            "slow to hear, unflushed",
            [go_deaf, get("/large?size=9000000&times=0") + get(), listen_again],
        ),
        c(
            "slow to hear, unflushed, closed then",
            [go_deaf, get("/large?size=9000000&times=0", "Connection: close"), listen_again],
        ),
        c(
            "slow to hear, closed then",
            [go_deaf, get("/large?size=9000000", "Connection: close") + get(), listen_again],
        ),
    ]


def _pipelined() -> list[Conversation]:
    c = Conversation
    return [
        c("two", [get("/1") + get("/2")]),
        c("two with bodies", [post("/1", b"abc") + post("/2", b"def") + get()]),
        c("a hundred", [b"".join(get(f"/{number}") for number in range(100))]),
        c("a hundred slow ones", [b"".join(get(f"/late?{n}") for n in range(100))]),
        c("slow, then fast", [get("/late") + get("/fast"), get("/late?b") + get("/fast")]),
        c("one at work, then more", [get("/late?rounds=20"), get("/1"), get("/2") + get("/3")]),
        c("plain, then chunked", [get() + chunked("/", b"abc", b"d") + get()]),
        c("slow, then chunked", [get("/late") + chunked("/", b"abc", b"d") + get()]),
        c("plain, then malformed", [get() + b"nonsense\r\n\r\n" + get()]),
        c("slow, then malformed", [get("/late") + b"nonsense\r\n\r\n" + get()]),
        c("plain, then half", [get() + get("/x")[:-5], get("/x")[-5:]]),
        c("plain, then a line break", [get() + b"\r\n" + get()]),
        c("plain, then two", [get() + b"\r\n\r\n" + get()]),
        c("plain, then an upgrade", [get() + get("/", *UPGRADE) + get()]),
        c("two large bodies", [post("/1", b"x" * BIG) + post("/2", b"y" * BIG) + get()]),
        c("small, then large", [post("/1", b"x") + post("/2", b"y" * BIG) + get()]),
        c("more than is read ahead", [b"".join(post("/late", b"x" * 9000) for _ in range(30))]),
        c("body that looks like a request", [post("/", get("/inner")) + get("/outer")]),
        c("length shorter than the body", [get("/", "Content-Length: 3") + b"abcGET / HTTP/1.1"]),
    ]


def _rare() -> list[Conversation]:
    c = Conversation
    return [
        c("chunked", [chunked("/", b"abc", b"x" * 100), get()]),
        c("chunked in packets", by(chunked("/", b"abc", b"x" * 100) + get(), 7)),
        c("chunked badly", [get("/", "Transfer-Encoding: chunked") + b"zz\r\n", get()]),
        c("chunk extension", [get("/", "Transfer-Encoding: chunked") + b"1;a=b\r\nx\r\n0\r\n\r\n"]),
        c(
            "expect",
            [get("/", "Expect: 100-continue", "Content-Length: 3", method="POST"), b"abc", get()],
        ),
        c("expect something else", [post("/", b"abc", "Expect: x"), get()]),
        c(
            "expect, early",
            [
                get("/stream?finish=1", "Expect: 100-continue", "Content-Length: 3", method="POST"),
                b"abc",
            ],
        ),
        c("websocket to who speaks none", [get("/", *UPGRADE), get()]),
        c(
            "upgrade to h2c",
            [
                get(
                    "/",
                    "Connection: Upgrade, HTTP2-Settings",
                    "Upgrade: h2c",
                    "HTTP2-Settings: AAMAAABkAAQAAP__",
                ),
                get(),
            ],
        ),
        c("upgrade of a post", [post("/", b"abc", "Connection: upgrade", "Upgrade: x"), get()]),
        c("upgrade without a connection", [get("/", "Upgrade: websocket"), get()]),
        c("connection without an upgrade", [get("/", "Connection: upgrade"), get()]),
        c("http/2", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", get()]),
        c("tls", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200 + b"\r\n\r\n"]),
        c(
            "gzip",
            [post("/", GZIPPED, FORM, "Content-Encoding: gzip"), get()],
            {"decompress_request": True},
        ),
        c(
            "gzip without a body",
            [get("/", "Content-Encoding: gzip"), get()],
            {"decompress_request": True},
        ),
        c(
            "decompress what is not compressed",
            [post("/", b"a=1", FORM), get()],
            {"decompress_request": True},
        ),
        c(
            "gzip that is none",
            [post("/", b"abc", "Content-Encoding: gzip"), get()],
            {"decompress_request": True},
        ),
        c("body too large", [post("/", b"x" * 11), get()], {"max_body_size": 10}),
        c("body just small enough", [post("/", b"x" * 10), get()], {"max_body_size": 10}),
        c("no bodies", [post("/", b"x"), get()], {"max_body_size": 0}),
        c(
            "body larger than the buffer",
            [post("/", b"x" * 3000), get()],
            {"max_buffer_size": 2000},
        ),
        c("body_timeout, in time", [post("/", b"x"), get()], {"body_timeout": 30}),
        c("chunked too large", [chunked("/", b"x" * 11), get()], {"max_body_size": 10}),
        c("head too large", [get("/", "A: " + "x" * 200), get()], {"max_header_size": 100}),
        c("head too large, no end", [get("/", "A: " + "x" * 200)[:-4]], {"max_header_size": 100}),
        c("head of just the limit", [get("/", "A: " + "x" * 30), get()], {"max_header_size": 64}),
        *(
            c(f"head of {size}", [get("/", "A: " + "x" * size), get()], {"max_header_size": 100})
            for size in range(60, 72)
        ),
        *(
            c(
                f"head of {size} in packets",
                [*by(get("/", "A: " + "x" * size), 10), get()],
                {"max_header_size": 100},
            )
            for size in range(60, 72, 3)
        ),
        c("head over 64 KiB", [get("/", "A: " + "x" * BIG), get()]),
        c("head over 64 KiB, no end", by(get("/", "A: " + "x" * BIG)[:-2], 20_000)),
        c("head of 60 KiB in packets", by(get("/", "A: " + "x" * 60_000) + get(), 10_000)),
        c("many headers", [get("/", *(f"A{number}: x" for number in range(1000))), get()]),
        c("many of one header", [get("/", *["A: x"] * 3000), get()]),
    ]


def _malformed() -> list[Conversation]:
    heads = {
        "no host": raw("GET / HTTP/1.1"),
        "two hosts": get("/", "Host: other"),
        "the same host twice": get("/", HOST),
        "empty host": raw("GET / HTTP/1.1", "Host:"),
        "bad host": raw("GET / HTTP/1.1", "Host: a b"),
        "slash in the host": raw("GET / HTTP/1.1", "Host: a/b"),
        "comma in the host": raw("GET / HTTP/1.1", "Host: a,b"),
        "non-ascii host": raw("GET / HTTP/1.1", "Host: \xe9"),
        "same length twice": get("/", "Content-Length: 3", "Content-Length: 3") + b"abc",
        "two lengths": get("/", "Content-Length: 3", "Content-Length: 4") + b"abcd",
        "length in a list": get("/", "Content-Length: 3, 3") + b"abc",
        "lengths in a list": get("/", "Content-Length: 3, 4") + b"abc",
        **{
            f"length {length!r}": get("/", f"Content-Length:{length}") + b"abc"
            for length in (
                " +3",
                " -3",
                " 3",
                "  3 ",
                "\t3",
                " 3_0",
                "",
                " ",
                " 0x3",
                " 3.0",
                " three",
                " 03",
                " 3 3",
                " 18446744073709551619",
                " 3;",
                ' "3"',
                " \xb3",
                "3,",
                " ,3",
            )
        },
        "length and chunked": get("/", "Content-Length: 3", "Transfer-Encoding: chunked")
        + b"0\r\n\r\n",
        "chunked and length": get("/", "Transfer-Encoding: chunked", "Content-Length: 3")
        + b"0\r\n\r\n",
        **{
            f"transfer {coding}": get("/", f"Transfer-Encoding: {coding}", method="POST")
            + b"0\r\n\r\n"
            for coding in (
                "gzip",
                "identity",
                "Chunked",
                "chunked, chunked",
                "gzip, chunked",
                ",chunked",
                "chunked;",
                "",
                "xchunked",
                "\x0bchunked",
            )
        },
        "two codings": get("/", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked")
        + b"0\r\n\r\n",
        "underscore": get("/", "Content_Length: 3", "Transfer_Encoding: chunked"),
        "1.0 chunked": get("/", "Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n",
        "folded": raw("GET / HTTP/1.1", HOST, "A: b", " c"),
        "folded by a tab": raw("GET / HTTP/1.1", HOST, "A: b", "\tc"),
        "folded length": raw("GET / HTTP/1.1", HOST, "Content-Length:", " 3") + b"abc",
        "folded coding": raw("GET / HTTP/1.1", HOST, "Transfer-Encoding:", " chunked")
        + b"0\r\n\r\n",
        "first header indented": raw("GET / HTTP/1.1", " A: b", HOST),
        "line of blanks": raw("GET / HTTP/1.1", HOST, "  ", "A: b"),
        "bare LF": b"GET / HTTP/1.1\nHost: test\n\n",
        "some bare LF": b"GET / HTTP/1.1\r\nHost: test\nA: b\r\n\r\n",
        "bare LF in the first line": b"GET / HTTP/1.1\nHost: test\r\n\r\n",
        "bare LF at the end": b"GET / HTTP/1.1\r\nHost: test\r\n\n",
        "end by LF, LF": b"GET / HTTP/1.1\r\nHost: test\n\nGET /b HTTP/1.1\r\nHost: test\r\n\r\n",
        "end by LF, CR, LF": b"GET / HTTP/1.1\r\nHost: test\n\r\nGET /b HTTP/1.1\r\nHost: test\r\n\r\n",
        "end by CR, LF, LF": b"GET / HTTP/1.1\r\nHost: test\r\n\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
        "bare CR": b"GET / HTTP/1.1\r\nHost: test\rA: b\r\n\r\n",
        "CR in a value": raw("GET / HTTP/1.1", HOST, "A: a\rb"),
        "CR, CR, LF": b"GET / HTTP/1.1\r\r\nHost: test\r\r\n\r\r\n\r\n",
        "CR, CR, LF in the first line": b"GET / HTTP/1.1\r\r\nHost: test\r\n\r\n",
        "leading CR LF": b"\r\n" + get(),
        "leading LF": b"\n" + get(),
        "leading CR": b"\r" + get(),
        "leading CR LF, CR LF": b"\r\n\r\n" + get(),
        "leading blank": b" " + get(),
        "nothing but line ends": b"\r\n\r\n\r\n",
        **{
            f"{character!r} in a value": raw("GET / HTTP/1.1", HOST, f"A: a{character}b")
            for character in ("\0", "\x01", "\x0b", "\x0c", "\x1f", "\x7f", "\x80", "\t", "\x85")
        },
        **{
            f"value that begins with {character!r}": raw("GET / HTTP/1.1", HOST, f"A: {character}b")
            for character in ("\0", "\x0b", "\x0c", "\x1c", "\x85", "\xa0")
        },
        **{
            f"{character!r} in a name": raw("GET / HTTP/1.1", HOST, f"A{character}B: b")
            for character in ("\0", " ", "\t", "\xe9", "(", '"', "_", "~", "/", "\x7f")
        },
        "blank before the colon": raw("GET / HTTP/1.1", HOST, "A : b"),
        "blank before the colon of the length": raw("GET / HTTP/1.1", HOST, "Content-Length : 3")
        + b"abc",
        "no name": raw("GET / HTTP/1.1", HOST, ": b"),
        "no colon": raw("GET / HTTP/1.1", HOST, "A"),
        "proxy-connection": get("/", "Proxy-Connection: close"),
        **{
            f"first line {line!r}": raw(line, HOST)
            for line in (
                "GET",
                "GET /",
                "GET  / HTTP/1.1",
                "GET /  HTTP/1.1",
                "GET / HTTP/1.1 ",
                "GET / x",
                " GET / HTTP/1.1",
                "GET\t/ HTTP/1.1",
                "GET / / HTTP/1.1",
                "GET / HTTP/1.2",
                "GET / HTTP/1.9",
                "GET / HTTP/0.9",
                "GET / HTTP/2.0",
                "GET / HTTP/3.0",
                "GET / HTTP/01.1",
                "GET / HTTP/1.10",
                "GET / HTTP/1",
                "GET / http/1.1",
                "GET / HTTPS/1.1",
                "get / HTTP/1.1",
                "Get / HTTP/1.1",
                "BREW / HTTP/1.1",
                "PROPFIND / HTTP/1.1",
                "M-SEARCH * HTTP/1.1",
                "PURGE / HTTP/1.1",
                "QUERY / HTTP/1.1",
                "SOURCE / ICE/1.0",
                "OPTIONS * RTSP/1.0",
                "DESCRIBE / RTSP/1.0",
                "SETUP / HTTP/1.1",
                "GET /\0 HTTP/1.1",
                "GET /\x7f HTTP/1.1",
                "GET /\x80 HTTP/1.1",
                "GET /\x01 HTTP/1.1",
                "GET /a b HTTP/1.1",
                "GET ?a HTTP/1.1",
                "GET * HTTP/1.1",
                "G\xcbT / HTTP/1.1",
                "G:T / HTTP/1.1",
                "GET /\t HTTP/1.1",
                "HTTP/1.1 200 OK",
                "",
                "GET http:// HTTP/1.1",
                "GET http://[::1]:80/x HTTP/1.1",
                "GET http://a@b@c/ HTTP/1.1",
                "TRACE / HTTP/1.1",
                "CONNECT / HTTP/1.1",
                "OPTIONS x:80 HTTP/1.1",
                "GET //a?b?c#d#e HTTP/1.1",
            )
        },
    }
    return [
        *(Conversation(name, [head, get("/next")]) for name, head in heads.items()),
        *(Conversation(f"{name}, pipelined", [get() + head + get("/next")])
          for name, head in heads.items()),
    ]  # fmt: skip


def _answers() -> list[Conversation]:
    c = Conversation
    codes = (100, 101, 200, 204, 205, 299, 304, 404, 500, 599)
    return [
        *(c(f"status {code}", [get(f"/status/{code}?reason=X"), get()]) for code in codes),
        *(
            c(f"status {code}, head", [get(f"/status/{code}?reason=X", method="HEAD"), get()])
            for code in codes
        ),
        *(
            c(f"status {code}, 1.0", [get(f"/status/{code}?reason=X", version="1.0")])
            for code in codes
        ),
        *(
            c(f"status {code}, post", [post(f"/status/{code}?reason=X", b"abc"), get()])
            for code in codes
        ),
        c("reason with a line break", [get("/status/200?reason=a%0d%0ab"), get()]),
        c("reason that is not ascii", [get("/status/200?reason=%C3%A9"), get()]),
        c("chunks", [get("/chunks"), get()]),
        c("empty chunks", [get("/chunks?empty=1"), get()]),
        c("chunks, head", [get("/chunks", method="HEAD"), get()]),
        c("chunks, closed", [get("/chunks", "Connection: close"), get()]),
        c("more than announced", [get("/length?length=3&part=abcdef"), get()]),
        c("more than announced, flushed", [get("/length?length=3&part=ab&part=cd&flush=1"), get()]),
        c("less than announced", [get("/length?length=9&part=abc"), get()]),
        c("less than announced, flushed", [get("/length?length=9&part=ab&part=cd&flush=1"), get()]),
        c("as announced", [get("/length?length=4&part=ab&part=cd&flush=1"), get()]),
        c("announced badly", [get("/length?length=%2B4&part=abcd"), get()]),
        c("announced very badly", [get("/length?length=4_0&part=abcd"), get()]),
        c("announced, head", [get("/length?length=4&part=abcd", method="HEAD"), get()]),
        c("line break in a header", [get("/raw?value=a%0d%0aSet-Cookie:x"), get()]),
        c("LF in a header", [get("/raw?value=a%0ab"), get()]),
        c("CR in a header", [get("/raw?value=a%0db"), get()]),
        c("LF in the reason", [get("/raw?value=a&reason=a%0ab"), get()]),
        c("no line break in a header", [get("/raw?value=a"), get()]),
        c("not latin1 in a header", [get("/raw?value=%E2%82%AC"), get()]),
        c("error", [get("/fail"), get()]),
        c("error of a post", [post("/fail", b"abc"), get()]),
        c("error in the answer", [get("/fail?begin=1"), get()]),
        c("early", [get("/early"), post("/early", b"abc"), get()]),
        c("early, pipelined", [post("/early", b"abc") + get()]),
        c("early, before the body", [get("/early", "Content-Length: 5", method="POST"), b"abc"]),
        c("405", [get("/late", method="DELETE"), get()]),
        c("socket", [get("/socket"), get()]),
        c("detached", [get("/detach"), b"hello!", get()]),
        c("detached with more", [get("/detach") + b"hello!" + get()]),
        c("detached, and gone", [get("/detach"), leave]),
        c("detached after others", [get(), get() + get("/detach") + b"hello!"]),
        c("detached within a post", [post("/detach", b"abc") + b"hello!"]),
    ]


def _streamed() -> list[Conversation]:
    found = []
    for query in (
        "",
        "async=1",
        "wait=1",
        "wait=1&async=1",
        "finish=1",
        "wait=1&finish=1",
        "enough=1",
        "fail=1",
        "max=4",
        "max=5",
        "timeout=30",
        "detach=1",
    ):
        path = f"/stream?{query}"
        head = get(path, "Content-Length: 5", method="POST")
        found += [
            Conversation(f"streamed {query}, whole", [post(path, b"abcde"), get()]),
            Conversation(f"streamed {query}, pipelined", [post(path, b"abcde") + get()]),
            Conversation(f"streamed {query}, in pieces", [head, b"ab", b"cde", get()]),
            Conversation(f"streamed {query}, the body never", [head]),
            Conversation(f"streamed {query}, half", [head + b"ab"]),
            Conversation(f"streamed {query}, half-closed", [post(path, b"abcde"), half_close]),
            Conversation(f"streamed {query}, gone", [head + b"ab", leave]),
            Conversation(f"streamed {query}, without a body", [get(path), get()]),
            Conversation(f"streamed {query}, large", [post(path, b"x" * BIG), get()]),
            Conversation(f"streamed {query}, 40,000", [*by(post(path, b"x" * 40_000), 7_000), get()]),
            Conversation(f"streamed {query}, chunked", [chunked(path, b"abc", b"de"), get()]),
        ]  # fmt: skip
    return found


def _custom() -> list[Conversation]:
    found = []
    for what in ("answer", "fail", "detach", "close", "wait"):
        for when in ("headers", "data", "finish"):
            if (what, when) == ("detach", "data"):
                continue  # Tornado reads on, from None
            path = f"/{what}-{when}" + ("" if what == "answer" else "/answer-finish")
            name = f"delegate, {path}"
            head = get(path, "Content-Length: 3", method="POST")
            found += [
                Conversation(name, [post(path, b"abc"), get("/answer-finish")], app="custom"),
                Conversation(f"{name}, pipelined", [post(path, b"abc") + get("/answer-finish")],
                             app="custom"),
                Conversation(f"{name}, in pieces", [head, b"ab", b"c", get("/answer-finish")],
                             app="custom"),
                Conversation(f"{name}, gone", [head, b"ab", leave], app="custom"),
            ]  # fmt: skip
    return [
        *found,
        Conversation("delegate, silent", [get("/"), leave], app="custom"),
        Conversation("callable", [get("/a?b=c"), post("/", b"a=1", FORM)], app="callable"),
        Conversation("callable, chunked", [chunked("/", b"abc") + get()], app="callable"),
        Conversation("callable, no host", [raw("GET / HTTP/1.1"), get()], app="callable"),
    ]


CONVERSATIONS = {
    "plain": _plain(),
    "endings": _endings(),
    "pipelined": _pipelined(),
    "rare": _rare(),
    "malformed": _malformed(),
    "answers": _answers(),
    "streamed": _streamed(),
    "custom": _custom(),
}

#: where Tornado hands requests to the application that came after the end of the connection, whose answers go
#: nowhere. RFC 9112, 9.6: "MUST NOT process any further requests"
BEHIND_THE_END = {
    "no_keep_alive",
    "close in the middle of three",
    "gone with requests left",
    "slow to hear, closed then",
    "streamed finish=1, pipelined",
    "streamed wait=1&finish=1, pipelined",
    "streamed enough=1, pipelined",
    "delegate, /answer-headers, pipelined",
    "delegate, /answer-data, pipelined",
    "delegate, /close-headers/answer-finish, pipelined",
    "delegate, /close-data/answer-finish, pipelined",
    "delegate, /close-finish/answer-finish, pipelined",
}
