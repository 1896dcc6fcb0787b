"""Files of a directory, as curl and Python's http.client get them."""

import http.client
import os
import subprocess
import time

import pytest

from support.programs import Program
from websockets.sync.client import connect

CONTENT = bytes(range(256)) * 40
WHEN = 1_000_000_000
WHEN_TEXT = "Sun, 09 Sep 2001 01:46:40 GMT"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "docs").mkdir()
    for name, content in [
        ("index.html", b"<h1>home</h1>"), ("docs/index.html", b"<h1>docs</h1>"), ("app.js", b"let a"), ("style.css", b"a {}"),
        ("data.json", b"{}"), ("image.png", b"png"), ("code.wasm", b"wasm"), ("picture.svg", b"<svg/>"), ("notes.txt", "ä".encode()),
        ("unknown.zzz", b"?"), ("empty", b""), ("with blank.txt", b"blank"), ("bytes.bin", CONTENT),
    ]:
        (folder / name).write_bytes(content)
        os.utime(folder / name, (WHEN, WHEN))
    return folder


@pytest.fixture(scope="module")
def server(site):
    with Program("echo", settings={"http.static": f"/={site}", "http.health": "/healthz"}) as program:
        yield program


def get(server, target, headers=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, target, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def curl(server, target, *arguments, **options):
    url = f"http://127.0.0.1:{server.port}{target}"
    done = subprocess.run(["curl", "-sS", "-m", "20", *arguments, url], capture_output=True, timeout=30, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


TYPES = {
    "/": "text/html; charset=utf-8", "/index.html": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8",
    "/style.css": "text/css; charset=utf-8", "/data.json": "application/json", "/image.png": "image/png",
    "/code.wasm": "application/wasm", "/picture.svg": "image/svg+xml", "/notes.txt": "text/plain; charset=utf-8",
    "/unknown.zzz": "application/octet-stream", "/empty": "application/octet-stream", "/with%20blank.txt": "text/plain; charset=utf-8",
}


@pytest.mark.parametrize("target", TYPES)
def test_a_file_has_its_type_length_time_and_tag(server, site, target):
    path = site / (target.lstrip("/") or "index.html").replace("%20", " ")
    answer, body = get(server, target)
    assert (answer.status, body) == (200, path.read_bytes())
    assert answer.headers["Content-Type"] == TYPES[target]
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["Last-Modified"] == WHEN_TEXT
    assert answer.headers["ETag"].startswith('"') and answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Date"]
    head, nothing = get(server, target, method="HEAD")
    assert (head.status, nothing) == (200, b"")
    for name in ("Content-Type", "Content-Length", "Last-Modified", "ETag", "Accept-Ranges"):
        assert head.headers[name] == answer.headers[name]


def test_a_folder_is_its_index_behind_a_slash(server):
    assert curl(server, "/docs/") == b"<h1>docs</h1>"
    assert curl(server, "/docs", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}") == (
        b"301 http://127.0.0.1:%d/docs/" % server.port
    )
    assert curl(server, "/docs?a=b", "-L", "-w", " %{url_effective}").endswith(b"/docs/?a=b")
    # `//` before a name would make it the name of another server.
    answer, _ = get(server, "//docs")
    assert answer.status == 404 and answer.headers["Location"] is None


def test_what_is_not_there_is_404_and_what_can_not_be_done_405(server):
    for target in ["/none", "/docs/none", "/docs/index.html/", "/../etc/passwd"]:
        assert curl(server, target, "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}") == b"404"
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"]:
        answer, _ = get(server, "/app.js", method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD"), method


def test_pages_of_the_server_and_websockets_come_before_files(server):
    assert curl(server, "/healthz") == b"ok\n"
    with connect(f"{server.url}app.js") as client:
        client.send("here")
        assert client.recv(timeout=5) == "here"


def test_curl_asks_for_a_file_again_only_if_it_has_changed(server, tmp_path):
    tag, copy = tmp_path / "tag", tmp_path / "copy"
    assert curl(server, "/bytes.bin", "--etag-save", tag, "-o", copy, "-w", "%{http_code}") == b"200"
    assert copy.read_bytes() == CONTENT
    again = ["-o", tmp_path / "again", "-w", "%{http_code} %{size_download}"]
    assert curl(server, "/bytes.bin", "--etag-compare", tag, *again) == b"304 0"
    assert curl(server, "/app.js", "--etag-compare", tag, *again) == b"200 5"
    os.utime(copy, (WHEN, WHEN))
    assert curl(server, "/bytes.bin", "-z", copy, *again) == b"304 0"
    os.utime(copy, (WHEN - 10, WHEN - 10))
    assert curl(server, "/bytes.bin", "-z", copy, *again) == b"200 %d" % len(CONTENT)


def test_conditions_on_one_kept_connection_stay_in_step(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.connect()
    own = connection.sock
    tag = get(server, "/bytes.bin")[0].headers["ETag"]
    for headers, status, body in [
        ({}, 200, CONTENT),
        ({"If-None-Match": tag}, 304, b""),
        ({"If-None-Match": f'"x", W/{tag}'}, 304, b""),
        ({"If-None-Match": '"x"'}, 200, CONTENT),
        ({"If-None-Match": '"x"', "If-Modified-Since": WHEN_TEXT}, 200, CONTENT),
        ({"If-Modified-Since": WHEN_TEXT}, 304, b""),
        ({"If-Modified-Since": "Sat, 08 Sep 2001 01:46:40 GMT"}, 200, CONTENT),
        ({"If-Match": tag}, 200, CONTENT),
        ({"If-Match": '"x"'}, 412, None),
        ({"If-Unmodified-Since": "Sat, 08 Sep 2001 01:46:40 GMT"}, 412, None),
        ({"Range": "bytes=10-19"}, 206, CONTENT[10:20]),
        ({"Range": "bytes=-5"}, 206, CONTENT[-5:]),
        ({"Range": "bytes=10000-"}, 206, CONTENT[10000:]),
        ({"Range": "bytes=0-99999999"}, 206, CONTENT),
        ({"Range": "bytes=10-19", "If-Range": tag}, 206, CONTENT[10:20]),
        ({"Range": "bytes=10-19", "If-Range": '"x"'}, 200, CONTENT),
        ({"Range": "bytes=10-19", "If-None-Match": tag}, 304, b""),
        ({"Range": f"bytes={len(CONTENT)}-"}, 416, None),
        ({"Range": "bytes=0-1,5-6"}, 200, CONTENT),
        ({"Range": "lines=0-1"}, 200, CONTENT),
        ({"Range": "bytes=5-1"}, 200, CONTENT),
    ]:
        for method in ("GET", "HEAD"):
            connection.request(method, "/bytes.bin", headers=headers)
            answer = connection.getresponse()
            got = answer.read()
            expected = 200 if method == "HEAD" and status in (206, 416) else status  # ranges are for GET
            assert answer.status == expected, (method, headers)
            assert got == (b"" if method == "HEAD" else got if body is None else body), headers
            if answer.status == 206:
                assert answer.headers["Content-Range"].endswith(f"/{len(CONTENT)}")
            if answer.status == 416:
                assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
            assert connection.sock is own, "the connection was kept"
    connection.close()


def test_curl_goes_on_with_a_download_that_was_cut(server, tmp_path):
    part = tmp_path / "part"
    part.write_bytes(CONTENT[:1234])
    curl(server, "/bytes.bin", "-C", "-", "-o", part)
    assert part.read_bytes() == CONTENT


def test_a_file_that_changes_is_served_as_it_is_now(start, tmp_path):
    (tmp_path / "page.txt").write_text("old")
    server = start("echo", settings={"http.static": f"/files/={tmp_path}"})
    answer, body = get(server, "/files/page.txt")
    assert body == b"old"
    (tmp_path / "new").write_text("and new")
    os.utime(tmp_path / "new", (time.time() + 2, time.time() + 2))
    (tmp_path / "new").replace(tmp_path / "page.txt")
    changed, body = get(server, "/files/page.txt", {"If-None-Match": answer.headers["ETag"]})
    assert (changed.status, body) == (200, b"and new")
    (tmp_path / "page.txt").unlink()
    assert get(server, "/files/page.txt")[0].status == 404
    assert get(server, "/page.txt")[0].status == 426
    assert get(server, "/files")[0].status == 301
