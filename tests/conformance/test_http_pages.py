"""Pages that the server answers itself on the port of its WebSockets."""

import subprocess
import urllib.error
import urllib.request

import pytest
import prometheus_client.openmetrics.parser
import prometheus_client.parser
from websockets.sync.client import connect

from support.places import PROMTOOL
from support.programs import run_to_end
from support.wire import Wire, request

PAGES = {"http.health": "/healthz", "http.metrics": "/metrics"}


# As Prometheus asks.
OPEN_METRICS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5"


def get(program, path, method="GET", accept="*/*"):
    asked = urllib.request.Request(f"http://127.0.0.1:{program.port}{path}", method=method, headers={"Accept": accept})
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


FORMS = {
    "OpenMetrics": (OPEN_METRICS, "application/openmetrics-text; version=1.0.0", prometheus_client.openmetrics.parser),
    "text": ("*/*", "text/plain; version=0.0.4", prometheus_client.parser),
    "text for a browser": ("text/html,application/xhtml+xml;q=0.9", "text/plain; version=0.0.4", prometheus_client.parser),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_metrics_count_what_happened_in_the_form_that_is_asked_for(start, threads, form):
    accept, content_type, parser = FORMS[form]
    echo = start("echo", settings={**PAGES, "threads": threads})
    with connect(echo.url) as client:
        for _ in range(10):
            client.send("x" * 100)
            client.recv(timeout=5)
        _, headers, text = get(echo, "/metrics", accept=accept)
    assert headers["Content-Type"].startswith(content_type)
    families = list(parser.text_string_to_metric_families(text))
    assert {family.type for family in families} == {"counter", "gauge"}
    assert all(family.documentation and len(family.samples) == 1 for family in families)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values["fullduplex_connections"] == 1
    assert values["fullduplex_messages_received_total"] == values["fullduplex_messages_sent_total"] == 10
    assert values["fullduplex_received_bytes_total"] > 1000
    assert values["fullduplex_faults_total"] == 0


def test_promtool_finds_nothing_wrong_with_the_metrics(start):
    assert PROMTOOL.exists(), "promtool is missing: run tests/setup.sh"
    _, _, text = get(start("echo", settings=PAGES), "/metrics")
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("path", ["healthz", "/a b", "/a?b", "/ä"])
def test_a_path_that_is_none_is_refused(path):
    code, _, errors = run_to_end("echo", "--set", f"http.health={path}")
    assert code == 1 and "/healthz" in errors
