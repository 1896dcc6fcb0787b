"""A real browser opens the pages that people would open."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect, sync_playwright

from support.brokers import Redis, wait_until
from support.places import REPORTS
from support.programs import LANGUAGES, speaking

# Chromium phones home in many ways; a test has no business outside of this machine.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-features=OptimizationHints,MediaRouter,Translate",
]

# The page of 2010, as the articles of that year taught it.
PAGE_OF_2010 = """<html><body><div id="log"></div><script>
  var log = [];
  var socket = new WebSocket("ws://127.0.0.1:PORT/");
  socket.onopen = function () { log.push("open"); socket.send("Grüße, 世界 👋"); };
  socket.onmessage = function (event) { log.push(event.data); socket.close(); };
  socket.onerror = function () { log.push("error"); };
  socket.onclose = function () { log.push("closed"); document.getElementById("log").innerHTML = log.join(", "); };
</script></body></html>"""

PAGE_WITH_LARGE_AND_BINARY_MESSAGES = """<!doctype html><div id="log"></div><script type="module">
  const socket = new WebSocket("ws://127.0.0.1:PORT/");
  socket.binaryType = "arraybuffer";
  await new Promise((opened) => { socket.onopen = opened; });
  const echo = (message) => new Promise((echoed) => {
    socket.onmessage = (event) => echoed(event.data);
    socket.send(message);
  });
  const sizes = [];
  for (const size of [0, 125, 126, 65535, 65536, 3000000]) {
    const sent = new Uint8Array(size).map((_, index) => index * 7);
    const received = new Uint8Array(await echo(sent));
    if (received.length === size && received.every((byte, index) => byte === sent[index])) sizes.push(size);
  }
  socket.close(4321, "enough");
  const close = await new Promise((closed) => { socket.onclose = closed; });
  document.getElementById("log").textContent = [...sizes, close.code, close.wasClean].join(", ");
</script>"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def person(browser):
    """person("Ada", program, "/room/cats"): somebody who has opened the page of a room, or of the lobby, and
    given a name."""
    contexts = []

    def open_page(name, program, path="/", **context):
        # A context of its own each, so that they don't share the remembered name.
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{program.port}{path}")
        page.locator("#name").fill(name)
        page.locator("#join").click()
        expect(state(page)).to_have_attribute("data-state", "open")
        return page

    yield open_page
    errors = [error for context in contexts for page in context.pages for error in getattr(page, "errors", [])]
    for context in contexts:
        context.close()
    assert not errors


def test_what_one_tab_says_the_other_shows(start, person):
    chat = start("chat")
    ada, bert = person("Ada", chat), person("Bert", chat)

    talk(ada, bert)


def test_the_page_joins_the_room_that_its_address_names(start, person):
    chat = start("chat")
    ada, bert = person("Ada", chat, "/room/cats"), person("Bert", chat, "/room/cats")
    chioma = person("Chioma", chat, "/room/Gr%C3%BC%C3%9Fe%20%F0%9F%91%8B")
    dmitri = person("Dmitri", chat)
    for speaker in (ada, chioma, dmitri):
        say(speaker, "Hello")
        expect(last_message(speaker)).to_have_text("Hello")
    expect(last_message(bert)).to_have_text("Hello")
    for page in (ada, bert, chioma, dmitri):
        assert page.locator("#messages > li").count() == 1, "nothing comes from another room"
    assert [page.locator("#room").inner_text() for page in (ada, chioma, dmitri)] == ["cats", "Grüße 👋", "fullduplex chat"]
    assert chioma.title() == "Grüße 👋 · fullduplex chat"


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "c"])
def test_the_chat_is_the_same_in_every_language(start, person, language):
    with speaking(language):
        chat = start("chat")
        talk(person("Ada", chat), person("Bert", chat))


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_of_two_servers_are_one_chat_with_a_redis_between(start, broker, person, language):
    redis = broker(Redis)
    with speaking(language):
        here, there = (start("chat", settings={"backplane": redis.url}) for _ in range(2))
    ada, bert = person("Ada", here), person("Bert", there)
    eve, finn = (person(name, chat, path="/room/kitchen") for name, chat in [("Eve", here), ("Finn", there)])
    for topic in ("/chat", "/room/kitchen"):
        wait_until(lambda: redis.subscribers(f"fdx:{topic}") == 2, "both servers have heard of everybody")
    talk(ada, bert)
    talk(eve, finn)
    assert ada.locator("#messages > li").count() == bert.locator("#messages > li").count() == 2, "a room is apart"


def test_what_people_write_stays_words_and_never_becomes_html(start, person):
    chat = start("chat")
    ada, bert = person("<b>Ada</b>", chat), person("Bert", chat)
    say(ada, "<img src=x onerror='document.title=`owned`'> & <script>")
    expect(last_message(bert)).to_have_text("<img src=x onerror='document.title=`owned`'> & <script>")
    expect(last_name(bert)).to_have_text("<b>Ada</b>")
    assert bert.locator("#messages img").count() == 0
    assert bert.title() == "fullduplex chat"


def test_a_page_ignores_what_is_not_a_message_of_the_chat(start, person):
    chat = start("chat")
    ada = person("Ada", chat)
    ada.evaluate(
        """(texts) => { for (const text of texts) socket.send(text); }""",
        ["nonsense", "null", "[]", "7", "{}", '{"name": "Eve"}', '{"name": 1, "text": 2}', '{"name": " ", "text": "x"}'],
    )
    say(ada, "still here")
    expect(last_message(ada)).to_have_text("still here")
    assert ada.locator("#messages > li").count() == 1


def test_the_name_is_remembered_and_can_be_changed(start, person):
    chat = start("chat")
    ada = person("Ada", chat)
    ada.reload()
    expect(state(ada)).to_have_attribute("data-state", "open")
    expect(ada.locator("#welcome")).to_be_hidden()
    ada.locator("#rename").click()
    expect(ada.locator("#name")).to_have_value("Ada")
    ada.locator("#name").fill("Countess Lovelace")
    ada.locator("#name").press("Enter")
    say(ada, "at your service")
    expect(last_name(ada)).to_have_text("Countess Lovelace")


def test_the_pages_come_back_by_themselves_when_the_server_is_restarted(start, person):
    first = start("chat")
    ada, bert = person("Ada", first), person("Bert", first)
    say(ada, "before")
    expect(last_message(bert)).to_have_text("before")

    first.stop()
    for page in (ada, bert):
        expect(state(page)).not_to_have_attribute("data-state", "open")
        expect(page.locator("#say")).to_be_disabled()

    start("chat", listen=[f"127.0.0.1:{first.port}"])
    for page in (ada, bert):
        expect(state(page)).to_have_attribute("data-state", "open", timeout=15_000)
    say(bert, "after")
    expect(last_message(ada)).to_have_text("after")
    expect(ada.locator("#messages .text")).to_have_text(["before", "after"])


def test_a_page_of_2010_talks_to_echo(start, browser):
    assert show(browser, PAGE_OF_2010, start("echo")) == "open, Grüße, 世界 👋, closed"


def test_chromium_gets_binary_and_large_messages_back(start, browser):
    log = show(browser, PAGE_WITH_LARGE_AND_BINARY_MESSAGES, start("echo"))
    assert log == "0, 125, 126, 65535, 65536, 3000000, 4321, true"


@pytest.mark.parametrize(
    "name, width, height, scheme",
    [("phone-light", 360, 640, "light"), ("wide-dark", 1100, 720, "dark")],
)
def test_the_page_fits_phones_and_desks_by_day_and_by_night(start, person, name, width, height, scheme):
    chat = start("chat")
    ada = person("Augusta Ada King, Countess of Lovelace", chat, viewport={"width": width, "height": height}, color_scheme=scheme)
    bert, chioma = person("Bert", chat), person("Chioma", chat)
    conversation = [
        (bert, "Is this thing on?"),
        (ada, "It is! Both directions at once 🎉"),
        (chioma, "Ẹ n lẹ o! हिन्दी, العربية and Ελληνικά arrive too."),
        (chioma, "And so does averylongwordwithoutanyspaces" + "andsoon" * 12),
        (bert, "<b>Not bold</b>, just words."),
        (ada, "Open a second tab and see."),
    ]
    for who, text in conversation:
        say(who, text)
        expect(last_message(ada)).to_have_text(text)
    REPORTS.mkdir(parents=True, exist_ok=True)
    ada.screenshot(path=REPORTS / f"chat-{name}.png")
    assert_in_sight(ada, width, height)
    chat.stop()
    ada.evaluate("pause = 9000")  # the longest words that the state can have
    expect(state(ada)).to_contain_text("trying again")
    assert_in_sight(ada, width, height)


def assert_in_sight(page, width, height):
    for part in ("header", "#state", "#rename", "#text", "#say"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, f"{part} hangs over the side"
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, f"{part} is out of sight"


def show(browser, html, program):
    """Opens a page and returns what it writes into its #log when it is done."""

    # The page must come from this machine by HTTP: Chromium asks its user before any other page may
    # connect to a loopback address.
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            body = html.replace("PORT", str(program.port)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        threading.Thread(target=pages.serve_forever).start()
        page = browser.new_page()
        try:
            page.goto(f"http://127.0.0.1:{pages.server_port}/")
            expect(page.locator("#log")).not_to_be_empty(timeout=15_000)
            return page.locator("#log").inner_text()
        finally:
            page.close()
            pages.shutdown()


def talk(ada, bert):
    """Two pages, on which nobody has said anything yet."""
    ada_s_name, bert_s_name = (page.evaluate("myName") for page in (ada, bert))
    say(ada, "Hello, 你好 👋")
    for page in (ada, bert):
        expect(last_message(page)).to_have_text("Hello, 你好 👋")
        expect(last_name(page)).to_have_text(ada_s_name)
    say(bert, "Hello yourself")
    for page in (ada, bert):
        expect(last_message(page)).to_have_text("Hello yourself")
        expect(last_name(page)).to_have_text(bert_s_name)

    assert ada.locator("#messages > li").count() == 2, "one's own words come back once"
    expect(ada.locator("#messages > li.mine .text")).to_have_text("Hello, 你好 👋")


def say(page, text):
    page.locator("#text").fill(text)
    page.locator("#say").click()


def state(page):
    return page.locator("#state")


def last_message(page):
    return page.locator("#messages > li:last-child .text")


def last_name(page):
    return page.locator("#messages > li:last-child .name")
