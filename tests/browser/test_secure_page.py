"""Chromium and Firefox open a page of `echo` and talk to it: compressed, over TLS, and both at once."""

import json
import shutil

import pytest
from playwright.sync_api import sync_playwright

from support.firefox import firefox
from support.programs import Program
from support.secure import SECURE
from test_chat_page import FLAGS

# `outcome` is a promise of what happened, as JSON.
PAGE = """<!doctype html><title>talks</title><script>
  async function talk() {
    const socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/talk");
    socket.binaryType = "arraybuffer";
    await new Promise((opened, failed) => { socket.onopen = opened; socket.onerror = () => failed(new Error("no connection")); });
    const echo = (message) => new Promise((echoed) => {
      socket.onmessage = (event) => echoed(event.data);
      socket.send(message);
    });

    const alike = [];
    const words = JSON.stringify(Array.from({ length: 1800 }, (_, id) => ({ id, name: "Ada Lovelace", online: id % 3 === 0 })));
    const texts = { empty: "", short: "Grüße, 世界 👋", compressible: words, again: words, long: words.repeat(20) };
    for (const [name, text] of Object.entries(texts)) if (await echo(text) === text) alike.push(name);
    for (const size of [0, 125, 126, 65535, 65536, 3000000]) {
      const sent = new Uint8Array(size).map((_, index) => index * 7);
      const received = new Uint8Array(await echo(sent));
      if (received.length === size && received.every((byte, index) => byte === sent[index])) alike.push(size);
    }
    // Bytes that nobody can compress; getRandomValues gives 64 KiB at most.
    const noise = crypto.getRandomValues(new Uint8Array(65536));
    const heard = new Uint8Array(await echo(noise));
    if (heard.length === noise.length && heard.every((byte, index) => byte === noise[index])) alike.push("noise");

    const extensions = socket.extensions;
    socket.close(1000, "enough");
    const close = await new Promise((closed) => { socket.onclose = closed; });
    return JSON.stringify({ alike, extensions, close: [close.code, close.wasClean] });
  }
  const outcome = talk().catch((error) => String(error));
</script>"""

ALIKE = ["empty", "short", "compressible", "again", "long", 0, 125, 126, 65535, 65536, 3000000, "noise"]


@pytest.fixture(scope="module")
def chromium(here):
    with sync_playwright() as playwright:
        # It would ask its user about a certificate of an authority that it doesn't know.
        flags = [*FLAGS, f"--ignore-certificate-errors-spki-list={here.fingerprint}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)

        def evaluate(url, expression):
            page = browser.new_page()
            page.goto(url)
            value = page.evaluate(expression)
            page.close()
            return value

        yield evaluate
        browser.close()


@pytest.fixture(scope="module")
def esr():
    with firefox() as browser:
        yield browser.evaluate


@pytest.fixture(params=["chromium", "esr"])
def evaluate(request):
    """evaluate(url, expression): its value in that page, in a real browser."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(PAGE)
    return folder


@pytest.fixture(scope="module", params=["off", "shared", "dedicated"])
def server(request, folder, here):
    """Its first address is in the clear, its second one has TLS."""
    settings = {"http.static": f"/={folder}", "deflate": request.param, **here.settings}
    with Program("echo", listen=["127.0.0.1:0", SECURE], settings=settings) as program:
        yield program


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_talks_to_the_server_that_it_came_from(server, evaluate, scheme):
    address = dict(zip(["http", "https"], server.addresses))[scheme]
    port = address.rpartition(":")[2]
    outcome = json.loads(evaluate(f"{scheme}://localhost:{port}/", "outcome"))
    assert outcome["alike"] == ALIKE
    assert outcome["close"] == [1000, True]
    compresses = outcome["extensions"].startswith("permessage-deflate")
    assert compresses == (server.settings["deflate"] != "off")


def test_a_page_that_was_opened_by_address_has_no_server_name_to_send(server, evaluate):
    port = server.addresses[1].rpartition(":")[2]
    outcome = json.loads(evaluate(f"https://127.0.0.1:{port}/", "outcome"))
    assert outcome["alike"] == ALIKE
