"""Pages that the server answers itself on the port of its WebSockets."""

import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.sync.client import connect

from support.programs import run_to_end
from support.wire import Wire, request

PAGES = {"http.health": "/healthz", "http.metrics": "/metrics"}


def get(program, path, method="GET"):
    asked = urllib.request.Request(f"http://127.0.0.1:{program.port}{path}", method=method)
    with urllib.request.urlopen(asked, timeout=5) as answer:
        return answer.status, answer.headers, answer.read().decode()


def test_health_is_200_for_get_and_head_on_its_path_alone(start):
    echo = start("echo", settings=PAGES)
    assert get(echo, "/healthz")[::2] == (200, "ok\n")
    assert get(echo, "/healthz?probe=1")[0] == 200
    status, headers, body = get(echo, "/healthz", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "3", "")
    for path, method, refusal in [("/healthz/", "GET", 426), ("/", "GET", 426), ("/healthz", "POST", 405)]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(echo, path, method)
        assert refused.value.code == refusal


def test_a_websocket_on_the_path_of_a_page_is_a_websocket(start):
    with connect(f"{start('echo', settings=PAGES).url}healthz") as client:
        client.send("here")
        assert client.recv(timeout=5) == "here"


def test_without_the_options_there_are_no_pages(echo):
    for path in PAGES.values():
        with Wire(echo.port) as wire:
            assert wire.send(request(target=path)).read_head().status == 426


@pytest.mark.parametrize("threads", [1, 2])
def test_metrics_are_open_metrics_and_count_what_happened(start, threads):
    echo = start("echo", settings={**PAGES, "threads": threads})
    with connect(echo.url) as client:
        for _ in range(10):
            client.send("x" * 100)
            client.recv(timeout=5)
        _, headers, text = get(echo, "/metrics")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    values = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert values["fullduplex_connections"] == 1
    assert values["fullduplex_messages_received_total"] == values["fullduplex_messages_sent_total"] == 10
    assert values["fullduplex_received_bytes_total"] > 1000
    assert values["fullduplex_faults_total"] == 0


@pytest.mark.parametrize("path", ["healthz", "/a b", "/a?b", "/ä"])
def test_a_path_that_is_none_is_refused(path):
    code, _, errors = run_to_end("echo", "--set", f"http.health={path}")
    assert code == 1 and "/healthz" in errors
