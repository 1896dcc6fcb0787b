"""Attacks on the files of `http.static`: paths that lead out, things that are no files, readers that are slow, files
that change while they are served."""

import os
import socket
import time

import pytest

from support.crowd import connect, hear, reset
from support.wire import Wire, request

MIB = 1 << 20
SECRET = b"what lies outside"


@pytest.fixture
def site(tmp_path):
    """A directory to serve, with a secret beside it and one inside."""
    folder = tmp_path / "site"
    (folder / "a" / "b").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "site-secret").write_bytes(SECRET)
    (folder / ".hidden").write_bytes(SECRET)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(SECRET)
    (folder / "a" / "page.txt").write_bytes(b"page")
    (folder / "page.txt").write_bytes(b"page")
    return folder


def static(site):
    return {"http.static": f"/={site}"}


# ------------------------------------------------------------------------------------------- ways out

UP = [
    "..", ".%2e", "%2e.", "%2e%2e", "%2E%2E", "%252e%252e", "..%00", "..%2f", "..%5c", "..\\", "%2e%2e%2f", "..;", "..%20", "..%09",
    "%c0%ae%c0%ae", "%c0%2e%c0%2e", "%e0%80%ae%e0%80%ae", "%u002e%u002e", "...", "....", "..%c0%af", "..%ef%bc%8f", "%uff0e%uff0e",
    ".", "%2e", "", "a/..", "a/../..", "a/%2e%2e/..", "a/b/../../..", "page.txt/..", "page.txt/../..", ".git/../..",
]
SEPARATORS = ["/", "//", "%2f", "%2F", "%252f", "\\", "%5c", "%255c", "/./", "%c0%af"]
TRICKS = [
    *(f"/{up}{separator}secret" for up in UP if up for separator in SEPARATORS),
    *(f"/{separator.join(['..'] * count)}{separator}etc{separator}passwd" for count in (1, 5, 20) for separator in SEPARATORS),
    "/..", "/../", "/%2e%2e", "/..%2f", "//", "///", "//etc/passwd", "/%2fetc/passwd", "/%2f%2fetc/passwd", "/a/page.txt%00.html",
    "/page.txt%00", "/page.txt%00/../../secret", "/../site-secret", "/%2e%2e/site-secret", "/../site/page.txt", "/page.txt/",
    "/page.txt/.", "/page.txt%2f", "/./page.txt", "/a/../page.txt", "/%2e/page.txt", "/.hidden", "/%2ehidden", "/.git/config",
    "/%2egit/config", "/a/.%2e/.hidden", "/.git", "/.git/", "/proc/self/environ", "/~root", "/C:/secret", "/c%3a%5csecret",
    "/\\\\host\\share", "/file:///etc/passwd", "/page.txt::$DATA", "/" + "a/" * 5000, "/" + "../" * 5000, "/" + "x" * 5000,
    "/%", "/%zz", "/%2", "/%ff", "/a%0apage.txt", "/a%0d%0aX-Injected:%201",
]


@pytest.mark.parametrize("threads", [1])
def test_no_spelling_leads_to_what_is_not_served(attacked, site):
    with attacked(static(site)) as server, Wire(server.port) as wire:
        for path in TRICKS:
            for target in [path, f"http://a.example{path}"]:
                # All on one connection, which has to stay in step.
                wire.send(request(target=target), request(target="/page.txt"))
                head, body = wire.read_answer()
                assert head.status == 404, target
                assert SECRET not in body and b"root:" not in body and b"Injected" not in head.raw, target
                assert wire.read_answer()[1] == b"page", target


@pytest.mark.parametrize("threads", [1])
def test_links_lead_nowhere_else_and_what_is_no_file_holds_nobody(attacked, site):
    (site / "out").symlink_to("../secret")
    (site / "up").symlink_to("..")
    (site / "absolute").symlink_to(site.parent / "secret")
    (site / "root").symlink_to("/")
    (site / "magic").symlink_to("/proc/self/root")
    (site / "circle").symlink_to("circle")
    (site / "null").symlink_to("/dev/zero")
    (site / "inside").symlink_to("a/page.txt")
    os.mkfifo(site / "pipe")
    (site / "folder").mkdir()
    os.mkfifo(site / "folder" / "index.html")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(os.path.relpath(site / "socket"))
    unreadable = site / "unreadable"
    unreadable.write_bytes(SECRET)
    unreadable.chmod(0)
    refused = [
        "/out", "/up/secret", "/up/site/page.txt", "/absolute", "/root/etc/passwd", "/magic/etc/passwd", "/circle", "/null", "/pipe",
        "/folder/", "/folder/index.html", "/socket", "/a/", "/a/b/", "/",
    ]
    with attacked(static(site)) as server:
        for target in refused + ["/unreadable"] * (os.geteuid() != 0):
            with Wire(server.port).send(request(target=target)) as wire:
                head, body = wire.read_answer()
                assert head.status == 404 and SECRET not in body, target
            server.assert_companions_are_served()
        with Wire(server.port).send(request(target="/inside")) as wire:
            assert wire.read_answer()[1] == b"page"
    bound.close()


# --------------------------------------------------------------------------------------- large files

LARGE = 200 * MIB
SLOW_READERS = 200


@pytest.fixture
def large(site):
    """A file that takes no disk, with something to know at its end."""
    with open(site / "large", "wb") as file:
        file.truncate(LARGE - 3)
        file.seek(0, os.SEEK_END)
        file.write(b"end")
    return site / "large"


@pytest.mark.parametrize("threads", [1])
def test_two_hundred_slow_readers_of_a_large_file_cost_little_and_hold_up_nobody(attacked, site, large):
    with attacked(static(site)) as server:
        readers = [connect(server.port, 4096) for _ in range(SLOW_READERS)]
        for sock in readers:
            sock.sendall(request(target="/large"))
        for _ in range(5):
            for sock in readers:
                assert sock.recv(4096)
            begin = time.monotonic()
            server.assert_companions_are_served()
            assert time.monotonic() - begin < 1
            # Each has at most what one write offers to the kernel, and its file.
            assert server.memory_growth() < SLOW_READERS * 100 * 1024
        # One that is quick has it soon, all of it.
        with Wire(server.port).send(request("Connection: close", target="/large")) as wire:
            head = wire.read_head()
            assert (head.status, head["Content-Length"]) == (200, str(LARGE))
            got, last = len(wire.unread), wire.unread
            while chunk := wire.socket.recv(1 << 20):
                got, last = got + len(chunk), chunk
            assert (got, last[-3:]) == (LARGE, b"end")
        server.assert_served()
        for sock in readers:
            reset(sock)


def test_a_file_cut_short_while_it_is_served_ends_its_connection_and_no_other(attacked, site, large):
    with attacked(static(site)) as server:
        cut, kept = connect(server.port, 4096), connect(server.port, 4096)
        for sock, lines in [(cut, []), (kept, ["Range: bytes=0-99999"])]:
            sock.sendall(request(*lines, target="/large") + request(target="/page.txt"))
        begun = cut.recv(4096)
        assert begun.startswith(b"HTTP/1.1 200 ")
        os.truncate(large, 100_000)
        heard = begun + hear(cut)
        # All that is heard belongs to the file: nothing may pass for the rest of it.
        assert len(heard) < LARGE and b"HTTP/1.1" not in heard[9:]
        with Wire(server.port).send(request(target="/large")) as wire:
            assert wire.read_answer()[0]["Content-Length"] == "100000"
        # A part that is still there comes whole, and the next one behind it.
        page = b""
        while not page.endswith(b"\r\n\r\npage"):
            chunk = kept.recv(1 << 16)
            assert chunk
            page += chunk
        server.assert_served()
        for sock in (cut, kept):
            sock.close()


def test_who_takes_nothing_of_a_file_is_cut(attacked, site, large):
    with attacked({**static(site), "timeout.write_stall": "500ms"}) as server:
        readers = [connect(server.port, 4096) for _ in range(20)]
        for sock in readers:
            sock.sendall(request(target="/large"))
        server.wait_until(lambda: server.descriptors() == server.descriptors_before, "all are cut, their files closed")
        for sock in readers:
            reset(sock)


FLOOD = 5_000


@pytest.mark.parametrize("threads", [2])
def test_a_flood_of_requests_for_files_leaves_none_open(attacked, site):
    targets = ["/page.txt", "/none", "/a", "/a/page.txt", "/../secret"]
    flood = b"".join(request(target=targets[index % len(targets)]) for index in range(FLOOD))
    with attacked(static(site)) as server:
        # Nobody waits for these.
        for _ in range(20):
            sock = connect(server.port)
            sock.sendall(flood[:50_000])
            reset(sock)
        with Wire(server.port).send(flood).finish() as wire:
            statuses = [status for status, _ in wire.read_answers()]
        assert statuses == [200, 404, 301, 200, 404] * (FLOOD // len(targets))
