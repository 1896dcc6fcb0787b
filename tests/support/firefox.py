"""A headless Firefox, which is driven by WebDriver BiDi: it serves that itself, as WebSocket."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import Empty, Queue

import pytest
from websockets.sync.client import connect

# A new Firefox on a busy machine takes some seconds.
PATIENCE_SECONDS = 60

# It phones home in many ways; a test has no business outside of this machine.
PREFERENCES = {
    "app.update.enabled": False, "app.normandy.enabled": False, "toolkit.telemetry.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False, "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False, "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False, "services.settings.server": "http://127.0.0.1:9/",
    "extensions.update.enabled": False, "extensions.systemAddon.update.enabled": False, "browser.aboutwelcome.enabled": False,
    "network.dns.disablePrefetch": True, "network.prefetch-next": False, "browser.region.network.url": "",
    "media.gmp-manager.url": "",
}


@contextmanager
def firefox():
    """A `Firefox`, which takes any certificate and ends with the block."""
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if not program:
        pytest.fail("firefox-esr is missing: run tests/setup.sh first", pytrace=False)
    with tempfile.TemporaryDirectory(prefix="fdx-firefox-", ignore_cleanup_errors=True) as profile:
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (Path(profile) / "user.js").write_text("\n".join(lines))
        process = subprocess.Popen(
            [program, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, "MOZ_CRASHREPORTER_DISABLE": "1", "HOME": profile},
        )
        try:
            with connect(f"{_listening_line(process)}/session", max_size=None, compression=None) as bidi:
                browser = Firefox(bidi)
                browser.command("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
                yield browser
                browser.command("browser.close")
            process.wait(PATIENCE_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class Firefox:
    def __init__(self, bidi):
        self.bidi = bidi
        self.numbers = count(1)

    def command(self, method, **params):
        number = next(self.numbers)
        self.bidi.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.bidi.recv(timeout=PATIENCE_SECONDS))).get("id") != number:
            pass  # an event
        assert answer["type"] == "success", answer
        return answer["result"]

    def evaluate(self, url, expression):
        """What an expression (a string, or the promise of one) is in a page, which gets a tab of its own."""
        tab = self.command("browsingContext.create", type="tab")["context"]
        self.command("browsingContext.navigate", context=tab, url=url, wait="complete")
        result = self.command("script.evaluate", expression=expression, target={"context": tab}, awaitPromise=True)
        assert result["type"] == "success", result
        self.command("browsingContext.close", context=tab)
        return result["result"]["value"]


def _listening_line(process):
    """The address that it prints when it can be driven. Its other words are read so that they can't block it."""
    found, said = Queue(), []

    def read():
        for line in process.stderr:
            said.append(line)
            if match := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                found.put(match[1])
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        address = found.get(timeout=PATIENCE_SECONDS)
    except Empty:
        address = None
    assert address, f"firefox can't be driven; it said:\n{''.join(said)}"
    return address
