"""Attacks on plain HTTP: a second request hidden in or behind a body, floods of requests and of bodies, answers that
nobody reads, requests that nobody answers."""

import select
import threading

import pytest

from support.crowd import connect, crowd, hear, hear_all, pour, reset
from support.dialects import RFC_6455
from support.programs import own_program
from support.wire import Wire, request

MIB = 1 << 20
SMUGGLED = request(target="/smuggled")
SETTINGS = {"http.health": "/smuggled", "max.body": "1m"}


@pytest.fixture(scope="module")
def pages():
    return own_program("pages")


# ------------------------------------------------------------------------------------------ smuggling


def post(*lines, body=b"", target="/body", method="POST"):
    return request(*lines, target=target, method=method) + body


def raw(*lines, body=b""):
    """Header lines as they are, whatever ends them."""
    return b"POST /body HTTP/1.1\r\nHost: a.example\r\n" + b"".join(lines) + b"\r\n" + body


CHUNKED, LENGTH = "Transfer-Encoding: chunked", "Content-Length: 5"
END = b"0\r\n\r\n"
# What is sent, and the only statuses that may come of it. Behind each SMUGGLED follows, to which no answer may come.
MATRIX = {
    # Two lengths.
    "CL TE": (post(LENGTH, CHUNKED, body=END), [400]),
    "TE CL": (post(CHUNKED, LENGTH, body=END), [400]),
    "CL 0 TE": (post("Content-Length: 0", CHUNKED, body=END), [400]),
    "TE identity CL": (post("Transfer-Encoding: identity", LENGTH, body=b"hello"), [400]),
    "CL CL": (post(LENGTH, "Content-Length: 6", body=b"hello"), [400]),
    "CL twice the same": (post(LENGTH, LENGTH, body=b"hello"), [400]),
    "CL and cl": (post(LENGTH, "content-length: 0", body=b"hello"), [400]),
    "CL in a list": (post("Content-Length: 5, 5", body=b"hello"), [400]),
    # Lengths that are none.
    "CL empty": (post("Content-Length:", body=b"hello"), [400]),
    "CL with a plus": (post("Content-Length: +5", body=b"hello"), [400]),
    "CL below zero": (post("Content-Length: -5", body=b"hello"), [400]),
    "CL in hexadecimal": (post("Content-Length: 0x5", body=b"hello"), [400]),
    "CL with a fraction": (post("Content-Length: 5.0", body=b"hello"), [400]),
    "CL with a blank inside": (post("Content-Length: 5 5", body=b"hello"), [400]),
    "CL in other digits": (post("Content-Length: \xb2", body=b"hello"), [400]),
    "CL of 2^64 + 5": (post("Content-Length: 18446744073709551621", body=b"hello"), [400]),
    "CL of 2^63": (post("Content-Length: 9223372036854775808", body=b"hello"), [413]),
    # Codings that one reader knows and another not.
    "TE unknown": (post("Transfer-Encoding: xchunked", body=END), [501]),
    "TE gzip, chunked": (post("Transfer-Encoding: gzip, chunked", body=END), [501]),
    "TE chunked, identity": (post("Transfer-Encoding: chunked, identity", body=END), [501]),
    "TE chunked twice in a line": (post("Transfer-Encoding: chunked, chunked", body=END), [501]),
    "TE chunked in two lines": (post(CHUNKED, CHUNKED, body=END), [501]),
    "TE identity and TE chunked": (post("Transfer-Encoding: identity", CHUNKED, body=END), [501]),
    "TE with a parameter": (post("Transfer-Encoding: chunked;q=1", body=END), [501]),
    "TE in quotes": (post('Transfer-Encoding: "chunked"', body=END), [501]),
    "TE empty": (post("Transfer-Encoding:", body=END), [501]),
    "TE with a blank inside": (post("Transfer-Encoding: chun ked", body=END), [501]),
    "TE with a vertical tab": (raw(b"Transfer-Encoding: \x0bchunked\r\n", body=END), [400]),
    "TE with a NUL": (raw(b"Transfer-Encoding: chunked\0\r\n", body=END), [400]),
    "TE with a byte of Latin-1": (raw(b"Transfer-Encoding: \xa0chunked\r\n", body=END), [501]),
    "TE by an underscore": (post("Transfer_Encoding: chunked", body=END), [200, 400]),
    "TE in HTTP/1.0": (post(CHUNKED, body=END).replace(b"HTTP/1.1", b"HTTP/1.0"), [400]),
    "TE in a handshake": (RFC_6455.opening(CHUNKED) + END, [400]),
    "TE in a POST that asks for a WebSocket": (post(CHUNKED, *RFC_6455.headers, body=END), [400]),
    "CL in a handshake": (RFC_6455.opening(f"Content-Length: {len(SMUGGLED)}"), [400]),
    # Lines that do not end where they seem to.
    "TE with a blank before the colon": (raw(b"Transfer-Encoding : chunked\r\n", body=END), [400]),
    "TE folded": (raw(b"Transfer-Encoding:\r\n chunked\r\n", body=END), [400]),
    "TE folded into another": (raw(b"X: y\r\n\tTransfer-Encoding: chunked\r\n", body=END), [400]),
    "CL folded": (raw(b"Content-Length:\r\n 5\r\n", body=b"hello"), [400]),
    "TE behind a bare LF": (raw(b"X: y\nTransfer-Encoding: chunked\r\n", body=END), [400]),
    "TE behind a bare CR": (raw(b"X: y\rTransfer-Encoding: chunked\r\n", body=END), [400]),
    "TE before a bare LF": (raw(b"Transfer-Encoding: chunked\n", body=END), [400]),
    "a head that ends with a bare LF": (raw(b"Content-Length: 5\r\n\n", body=b"hello"), [400]),
    # Chunks.
    "a chunk below zero": (post(CHUNKED, body=b"-1\r\n"), [400]),
    "a chunk with a plus": (post(CHUNKED, body=b"+5\r\nhello\r\n" + END), [400]),
    "a chunk with 0x": (post(CHUNKED, body=b"0x5\r\nhello\r\n" + END), [400]),
    "a chunk behind a blank": (post(CHUNKED, body=b" 5\r\nhello\r\n" + END), [400]),
    "a chunk of no size": (post(CHUNKED, body=b"\r\n"), [400]),
    "a chunk of an extension alone": (post(CHUNKED, body=b";a=b\r\n"), [400]),
    "a chunk of 2^64 + 5": (post(CHUNKED, body=b"10000000000000005\r\nhello\r\n" + END), [400]),
    "a chunk of 2^64 - 1": (post(CHUNKED, body=b"ffffffffffffffff\r\nhello\r\n" + END), [413]),
    "a chunk size that ends with LF": (post(CHUNKED, body=b"5\nhello\r\n" + END), [400]),
    "a chunk size that ends with CR": (post(CHUNKED, body=b"5\rhello\r\n" + END), [400]),
    "an extension with an LF": (post(CHUNKED, body=b"5;a\nb\r\nhello\r\n" + END), [400]),
    "an extension with a CR": (post(CHUNKED, body=b"5;a\rb\r\nhello\r\n" + END), [400]),
    "an extension with a NUL": (post(CHUNKED, body=b"5;a\0\r\nhello\r\n" + END), [400]),
    "a chunk that ends with LF": (post(CHUNKED, body=b"5\r\nhello\n" + END), [400]),
    "a chunk that does not end": (post(CHUNKED, body=b"5\r\nhello" + END), [400]),
    "a chunk that is longer": (post(CHUNKED, body=b"5\r\nhello!\r\n" + END), [400]),
    "a last chunk that ends with LF": (post(CHUNKED, body=b"0\n\r\n"), [400]),
    "a trailer that ends with LF": (post(CHUNKED, body=b"0\r\n\n"), [400]),
    "a trailer line that ends with LF": (post(CHUNKED, body=b"0\r\nX: y\n\r\n"), [400]),
    "a trailer line with a CR": (post(CHUNKED, body=b"0\r\nX: y\rz\r\n\r\n"), [400]),
    # All of it is the body.
    "a body": (post(f"Content-Length: {len(SMUGGLED)}"), [200]),
    "a body in a GET": (post(f"Content-Length: {len(SMUGGLED)}", method="GET"), [200]),
    "a body in a HTTP/1.0": (post(f"Content-Length: {len(SMUGGLED)}").replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    "a body for a page that takes none": (post(f"Content-Length: {len(SMUGGLED)}", target="/smuggled"), [405]),
    "a body for a page that is got": (post(f"Content-Length: {len(SMUGGLED)}", target="/smuggled", method="GET"), [200]),
    "a body in chunks for a page that is got": (post(CHUNKED, target="/smuggled", method="GET", body=b"%x\r\n" % len(SMUGGLED)), [200]),
    "a body for nobody": (post(f"Content-Length: {len(SMUGGLED)}", target="/none"), [426]),
    "a body over the limit": (post(f"Content-Length: {2 * MIB}"), [413]),
    "a body that was not waited for": (post("Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}"), [200]),
    "an expectation that nobody knows": (post("Expect: a-miracle", f"Content-Length: {len(SMUGGLED)}"), [417]),
    # Nothing follows the last one.
    "behind a request that says it is the last": (post(LENGTH, "Connection: close", body=b"hello"), [200]),
    "behind a page that is the last": (request("Connection: close", target="/smuggled"), [200]),
    "behind HTTP/1.0": (post(LENGTH, body=b"hello").replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
}
# Here it is no trick but the next request.
NEXT = {
    "behind a body": post(LENGTH, body=b"hello"),
    "behind chunks": post("Transfer-Encoding: CHUNKED", body=b"5 ;a=\"b\"\r\nhello\r\n000\r\nX: y\r\n\r\n"),
    "behind no body": post("Content-Length: 0"),
}


@pytest.mark.parametrize("threads", [1])
@pytest.mark.parametrize("pause", [False, True], ids=["at once", "in two writes"])
def test_no_request_is_ever_answered_out_of_what_is_hidden(attacked, pages, pause):
    with attacked(SETTINGS, pages) as server:
        for what, (sent, statuses) in MATRIX.items():
            with Wire(server.port) as wire:
                if pause:
                    wire.send(sent[:-1])
                    sent = sent[-1:]
                wire.send(sent + SMUGGLED).finish()
                answers = wire.read_answers()
                assert [status for status, _ in answers] == statuses, what
                for status, body in answers:
                    # "ok" is the answer to it; and a body is sent back as it is.
                    assert body != b"ok\n" or "page that is" in what, what
                    assert "body" not in what or status != 200 or "page" in what or body == SMUGGLED, what
        for what, sent in NEXT.items():
            with Wire(server.port).send(sent + SMUGGLED).finish() as wire:
                answers = wire.read_answers()
                assert [status for status, _ in answers] == [200, 200] and answers[1][1] == b"ok\n", what


# ---------------------------------------------------------------------------------------------- floods

FLOOD = 10_000
SMALL = 4096


@pytest.mark.parametrize("threads, target", [(2, "/smuggled"), (1, "/body")], ids=["a page", "the embedder"])
def test_ten_thousand_requests_in_one_go_are_answered_one_after_the_other(attacked, pages, target):
    body = b"" if target == "/smuggled" else b"hello"
    one = request(*([f"Content-Length: {len(body)}"] if body else []), target=target) + body
    with attacked(SETTINGS, pages) as server, Wire(server.port) as wire:
        sender = threading.Thread(target=pour, args=(wire.socket, one * FLOOD))
        sender.start()
        heard = 0
        # Between the answers of one the others have theirs.
        while heard < FLOOD:
            assert wire.read_answer()[1] == (body or b"ok\n")
            heard += 1
            if heard % 1000 == 0:
                server.assert_companions_are_served()
                assert server.memory_growth() < 4 * MIB
        sender.join()


def push_all(socks, data):
    """Writes to each what it takes, until none takes any more; who is cut off is left."""
    left = {sock: memoryview(data) for sock in socks}
    for sock in socks:
        sock.setblocking(False)
    while left:
        _, writable, _ = select.select([], list(left), [], 0.2)
        if not writable:
            return
        for sock in writable:
            try:
                left[sock] = left[sock][sock.send(left[sock][: 1 << 16]) :]
            except BlockingIOError:
                continue
            except OSError:
                del left[sock]
                continue
            if not left[sock]:
                del left[sock]


DEAF = 8
LONG_ANSWERS = {
    "a page": request(target="/-/metrics"),
    "the embedder": post("Content-Length: 8000", body=bytes(8000)),
}


@pytest.mark.parametrize("threads, whose", [(1, "a page"), (2, "the embedder")])
def test_who_reads_no_answers_is_read_no_further_and_cut(attacked, pages, threads, whose):
    one = LONG_ANSWERS[whose]
    with attacked({**SETTINGS, "timeout.write_stall": "1s"}, pages) as server:
        deaf = [connect(server.port, SMALL) for _ in range(DEAF)]
        push_all(deaf, one * (8 * MIB // len(one)))
        assert server.memory_growth() < DEAF * MIB // 2, "a part of what was said waits for its turn, and one answer"
        server.assert_served()
        server.wait_until(lambda: server.descriptors() == server.descriptors_before, "all are cut")
        for sock in deaf:
            reset(sock)


def test_requests_that_nobody_answers_cost_little_and_end_in_time(attacked, pages):
    count = 200
    with attacked({**SETTINGS, "timeout.handshake": "1500ms"}, pages) as server:
        with crowd(server.port, count) as waiting:
            push_all(waiting, request(target="/never") + SMUGGLED * (MIB // len(SMUGGLED)))
            assert server.memory_growth() < count * MIB // 4, "only what was read with the request is kept"
            server.assert_served()
            server.wait_until(lambda: server.descriptors() == server.descriptors_before, "all have ended")


BODIES = 60


@pytest.mark.parametrize("threads", [2])
def test_announced_bodies_cost_nothing_and_sent_ones_what_was_sent(attacked, pages):
    with attacked({**SETTINGS, "timeout.handshake": "60s"}, pages) as server:
        with crowd(server.port, BODIES) as socks:
            for sock in socks:
                sock.sendall(post(f"Content-Length: {MIB}", body=b"x"))
            server.assert_served()
            assert server.memory_growth() < 2 * MIB
            for sock in socks:
                sock.sendall(bytes(MIB // 2))
            server.wait_until(lambda: server.memory_growth() > BODIES * MIB // 4, "they are there")
            # A buffer that grows is twice as large as what it holds, at most.
            assert server.memory_growth() < BODIES * MIB + 8 * MIB
            server.assert_served()
            for sock in socks:
                reset(sock)
        server.wait_until(lambda: server.descriptors() == server.descriptors_before, "all have ended")


ENDLESS = {
    "bytes of chunks": (b"10000\r\n" + bytes(0x10000) + b"\r\n", 413),
    "chunks of few bytes": (b"5\r\nhello\r\n", 413),
    "an extension": (b"1;" + b"x" * 65536, 400),
    "a trailer": (b"0\r\n" + b"X: y\r\n" * 10_000, 431),
    "a size of zeros": (b"0" * 65536, 400),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_body_without_an_end_is_refused_at_a_limit(attacked, pages, what):
    piece, status = ENDLESS[what]
    with attacked(SETTINGS, pages) as server:
        for _ in range(2):
            sock = connect(server.port)
            pour(sock, post("Transfer-Encoding: chunked"))
            # More than the limit, and than what is read of somebody who was refused.
            for _ in range(8):
                if not pour(sock, piece * (MIB // len(piece) + 1)):
                    break
            heard = hear(sock)
            # RST may have destroyed the answer.
            assert heard == b"" or heard.startswith(b"HTTP/1.1 %d " % status), heard[:100]
            sock.close()
            assert server.memory_growth() < 4 * MIB


def test_chunks_of_one_byte_are_as_good_as_any(attacked, pages):
    with attacked(SETTINGS, pages) as server, Wire(server.port) as wire:
        wire.send(post("Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 100_000, END)
        assert wire.read_answer()[1] == b"x" * 100_000
        server.assert_served()


IDLE = 1_000


def test_a_thousand_kept_connections_that_ask_nothing_more_are_closed_in_time(attacked, pages):
    with attacked({**SETTINGS, "timeout.handshake": "2s"}, pages) as server:
        with crowd(server.port, IDLE) as socks:
            for sock in socks:
                sock.sendall(SMUGGLED)
            for sock in socks:
                assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert server.memory_growth() < 4 * MIB
            # Without a word, as a request that is just on its way would take it for its answer.
            assert set(hear_all(socks, server.assert_companions_are_served)) == {b""}
