"""TLS on the wire: what is agreed on, how records may be cut, how connections end, and what is refused.

Clients are Python's `ssl` with the bytes in our hands, and `openssl s_client`.
"""

import http.client
import os
import queue
import random
import re
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from support.authority import ECDSA, HERE, PKCS8, RSA, TRADITIONAL, Authority, settings
from support.crowd import reset
from support.dialects import DIALECTS, HIXIE_75, HIXIE_76, RFC_6455
from support.places import IS_SANITIZED
from support.programs import PATIENCE_SECONDS, Program, own_program, run_to_end
from support.secure import SECURE, SecureWire, open_wire
from support.wire import BINARY, TEXT, Wire, at_once, close_frame, frame, one_byte_at_a_time, request
from test_proxies import version_2

PAGES = {"http.health": "/healthz", "http.metrics": "/metrics"}
HEALTH = request("Connection: close", target="/healthz")

VERSION_1_2 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
VERSION_1_3 = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
each_version = pytest.mark.parametrize("versions", [VERSION_1_2, VERSION_1_3], ids=["TLS 1.2", "TLS 1.3"])


@pytest.fixture(scope="module")
def echo(here):
    with Program("echo", listen=[SECURE], settings={**here.settings, **PAGES}) as program:
        yield program


@pytest.fixture(scope="module")
def trust(authority):
    return authority.client()


@pytest.fixture
def witness(start, here):
    """witness(settings): the program of certificates.c, which tells what it knows of its clients."""

    def begin(more=None, **options):
        settings = {**here.settings, **PAGES, **(more or {})}
        return start(own_program("certificates"), listen=options.pop("listen", [SECURE]), settings=settings, **options)

    return begin


# -- versions, protocols, resumption: openssl s_client ------------------------------------------------


def s_client(program, *arguments):
    """What it prints when it asks for the health page."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{program.port}", "-servername", "localhost", "-ign_eof",
         *map(str, arguments)],
        input=HEALTH, capture_output=True, timeout=PATIENCE_SECONDS,
    )
    return (done.stdout + done.stderr).decode(errors="replace")


def assert_served(printed, version):
    assert f"{version}, Cipher is" in printed, printed
    assert "HTTP/1.1 200 OK" in printed, printed
    # It has read close_notify, and not just the end.
    assert "unexpected eof" not in printed, printed


@pytest.mark.parametrize("version, flag", [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")])
def test_openssl_trusts_the_certificate_and_gets_a_page(echo, authority, version, flag):
    printed = s_client(echo, flag, "-CAfile", authority.file, "-verify_return_error", "-verify_hostname", "localhost")
    assert_served(printed, version)
    assert "Verify return code: 0 (ok)" in printed


def test_tls_1_1_is_refused(echo):
    # Its ciphers are below what openssl offers by default.
    printed = s_client(echo, "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")
    # That openssl names no signature algorithms in its hello may be found first.
    assert re.search("alert (protocol version|handshake failure)", printed)
    assert "HTTP/1.1" not in printed


def test_tls_1_2_is_refused_where_the_least_is_1_3(start, here):
    program = start("echo", listen=[SECURE], settings={**here.settings, **PAGES, "tls.min": "1.3"})
    printed = s_client(program, "-tls1_2")
    assert "alert protocol version" in printed
    assert "HTTP/1.1" not in printed
    assert_served(s_client(program), "TLSv1.3")


@pytest.mark.parametrize("offered, chosen", [
    (["-alpn", "http/1.1"], "ALPN protocol: http/1.1"), (["-alpn", "h2,http/1.1"], "ALPN protocol: http/1.1"),
    ([], "No ALPN negotiated"),
], ids=["http/1.1", "h2 and http/1.1", "nothing"])
def test_http_1_1_is_chosen_from_what_a_client_offers(echo, offered, chosen):
    printed = s_client(echo, *offered)
    assert chosen in printed
    assert_served(printed, "TLSv1.3")


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
def test_who_offers_only_http_2_is_told_that_there_is_no_such_protocol(echo, flag):
    printed = s_client(echo, flag, "-alpn", "h2")
    assert "alert no application protocol" in printed
    assert "HTTP/1.1" not in printed


@pytest.mark.parametrize("version, flag", [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_client_that_comes_again_resumes_its_session(start, here, tmp_path, threads, version, flag):
    program = start("echo", listen=[SECURE], settings={**here.settings, **PAGES, "threads": threads})
    session = tmp_path / "session"
    first = s_client(program, flag, "-sess_out", session)
    assert f"New, {version}" in first
    # More often than there are threads: each of them must know the ticket.
    for _ in range(4):
        again = s_client(program, flag, "-sess_in", session, "-sess_out", session)
        assert f"Reused, {version}" in again, again
        assert_served(again, version)


def test_a_ticket_of_another_server_makes_a_new_session(start, here, tmp_path):
    session = tmp_path / "session"
    one, other = (start("echo", listen=[SECURE], settings={**here.settings, **PAGES}) for _ in range(2))
    s_client(one, "-sess_out", session)
    printed = s_client(other, "-sess_in", session)
    assert "New, TLSv1.3" in printed
    assert_served(printed, "TLSv1.3")


def test_a_key_update_is_followed_and_answered(echo):
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{echo.port}", "-tls1_3"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        for _ in range(3):
            client.stdin.write(b"K\n")  # its command for an update that wants one back
            client.stdin.flush()
            while b"KEYUPDATE" not in (line := client.stdout.readline()):
                assert line, "openssl has ended"
        client.stdin.write(HEALTH)
        client.stdin.flush()
        assert b"HTTP/1.1 200 OK" in client.stdout.read()


@pytest.mark.parametrize("key_type", [RSA, ECDSA], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL], ids=["PKCS 8", "traditional"])
def test_keys_may_be_written_in_each_form_of_pem(start, authority, trust, key_type, form):
    pair = authority.issue(*HERE, key_type=key_type).with_key_as(form)
    program = start("echo", listen=[SECURE], settings=pair.settings)
    with open_wire(program.port, trust) as wire:
        assert wire.tls.getpeercert(True) == pair.der


def test_the_certificates_of_authorities_in_between_are_sent_along(start, authority, trust):
    program = start("echo", listen=[SECURE], settings=authority.issue_by_intermediate(*HERE).settings)
    open_wire(program.port, trust).close()


# -- certificates by name ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(authority):
    """The certificates of a server with several names; the first is the default one."""
    return {
        "default": authority.issue(*HERE), "one": authority.issue("one.test", "also-one.test", key_type=RSA),
        "two": authority.issue("two.test"), "wild": authority.issue("*.wild.test"), "exact": authority.issue("exact.wild.test"),
    }


@pytest.fixture(scope="module")
def many_names(named):
    with Program("echo", listen=[SECURE], settings={**settings(*named.values()), **PAGES}) as program:
        yield program


@each_version
@pytest.mark.parametrize("name, expected", [
    ("one.test", "one"), ("also-one.test", "one"), ("two.test", "two"), ("TWO.Test", "two"), ("localhost", "default"),
    ("any.wild.test", "wild"), ("exact.wild.test", "exact"),
    # A star stands for one label and for nothing less.
    ("wild.test", "default"), ("a.b.wild.test", "default"),
    ("unknown.test", "default"), (None, "default"),
])
def test_a_client_gets_the_certificate_of_the_name_it_asks_for(many_names, named, authority, versions, name, expected):
    context = authority.client(versions=versions)
    context.check_hostname = False
    with open_wire(many_names.port, context, name=name) as wire:
        assert wire.tls.getpeercert(True) == named[expected].der


def test_openssl_gets_the_certificate_of_each_name(many_names, named, authority):
    for name, pair in [("one.test", "one"), ("any.wild.test", "wild"), ("unknown.test", "default")]:
        printed = s_client(many_names, "-CAfile", authority.file, "-servername", name)
        serial = f"{named[pair].certificate.serial_number:X}"
        text = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=printed, capture_output=True, text=True).stdout
        assert text.strip().removeprefix("serial=").lstrip("0") == serial, name


def test_the_server_knows_the_version_of_a_connection(witness, authority):
    program = witness()
    for versions, version in [(VERSION_1_2, "1.2"), (VERSION_1_3, "1.3")]:
        facts = told(program, authority.client(versions=versions))
        assert facts["tls"] == "yes"
        assert facts[":tls_version"] == version
        assert facts[":tls_subject"] == "FDX_E_NOT_FOUND"


def test_a_connection_in_the_clear_has_nothing_of_tls(witness):
    with RFC_6455.open(witness(listen=["127.0.0.1:0"]).port) as wire:
        facts = facts_of(wire)
    assert facts["tls"] == "no"
    assert facts[":tls_version"] == facts[":tls_subject"] == "FDX_E_NOT_FOUND"


def told(program, context, **wire):
    """What `certificates` tells of a new connection."""
    with open_wire(program.port, context, **wire) as wire:
        return facts_of(wire)


def facts_of(wire):
    _, text = wire.read_frame()
    return dict(line.split("=", 1) for line in text.decode().splitlines())


# -- certificates of clients ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ada(authority):
    """The certificate of a client, with a subject that has to be escaped."""
    name = {"organization_name": "Söhne + Töchter", "organization_unit_name": " #1 "}
    return authority.issue(common_name='Ada, "Countess" of Lovelace', **name)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger")).issue(common_name="Mallory")


def asking(authority, how):
    return {"tls.client_ca": str(authority.file), "tls.client_auth": how}


@each_version
def test_who_needs_no_certificate_shows_none(witness, authority, ada, versions):
    assert told(witness(), authority.client(ada, versions))[":tls_subject"] == "FDX_E_NOT_FOUND"
    assert told(witness(asking(authority, "none")), authority.client(ada, versions))[":tls_subject"] == "FDX_E_NOT_FOUND"


@each_version
@pytest.mark.parametrize("how", ["want", "need"])
def test_the_subject_of_a_clients_certificate_is_told(witness, authority, ada, how, versions):
    assert told(witness(asking(authority, how)), authority.client(ada, versions))[":tls_subject"] == ada.subject


@each_version
def test_where_a_certificate_is_wanted_one_can_do_without(witness, authority, versions):
    assert told(witness(asking(authority, "want")), authority.client(versions=versions))[":tls_subject"] == "FDX_E_NOT_FOUND"


def refused(program, context, says):
    """A client that says something as soon as it may is refused by a TLS alert, which arrives."""
    with pytest.raises(ssl.SSLError, match="(?i)alert"):
        with SecureWire(program.port, context) as wire:
            wire.send(*says)
            wire.read(1)


# In TLS 1.3 a client may speak before the server has looked at its certificate; then what it said
# must not destroy the alert.
says_something = pytest.mark.parametrize("says", [[], [RFC_6455.opening()]], ids=["silent", "says something"])


@each_version
@says_something
def test_where_a_certificate_is_needed_nobody_comes_without(witness, authority, ada, says, versions):
    program = witness(asking(authority, "need"))
    refused(program, authority.client(versions=versions), says)
    told(program, authority.client(ada, versions))


@each_version
@says_something
@pytest.mark.parametrize("how", ["want", "need"])
def test_a_certificate_of_a_foreign_authority_is_refused(witness, authority, stranger, how, says, versions):
    refused(witness(asking(authority, how)), authority.client(stranger, versions), says)


def test_an_expired_certificate_of_a_client_is_refused(witness, authority):
    refused(witness(asking(authority, "want")), authority.client(authority.issue_expired("old.test")), [])


def test_a_resumed_session_still_knows_whose_it_is(witness, authority, ada):
    program = witness(asking(authority, "need"))
    context = authority.client(ada, VERSION_1_3)
    with open_wire(program.port, context) as wire:
        assert facts_of(wire)[":tls_subject"] == ada.subject
        session = wire.tls.session
    with open_wire(program.port, context, session=session) as wire:
        assert wire.tls.session_reused
        assert facts_of(wire)[":tls_subject"] == ada.subject


# -- records, cut and merged ---------------------------------------------------------------------------


def in_random_pieces(seed, bytes_max):
    """A way to write: pieces of random sizes, which end anywhere within records."""
    chance = random.Random(seed)

    def write(sock, data):
        while data:
            size = chance.randint(1, bytes_max)
            sock.sendall(data[:size])
            data = data[size:]

    return write


CUTS = {"whole": at_once, "bytes": one_byte_at_a_time, "pieces": in_random_pieces(1, 40)}
each_cut = pytest.mark.parametrize("write", CUTS.values(), ids=CUTS.keys())


@each_version
@each_cut
@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_every_dialect_echoes_however_its_records_are_cut(echo, authority, dialect, write, versions):
    with open_wire(echo.port, authority.client(versions=versions), dialect=dialect, write=write) as wire:
        # One record for a message, several records for one message, and several messages in a record.
        one, two, three = (dialect.text(text) for text in (b"one", b"two " * 30, b"three"))
        for records in [(one, two, three), (one[:1], one[1:] + two[:40], two[40:] + three), (one + two + three,),
                        [(one + two + three)[index:index + 1] for index in range(len(one + two + three))]]:
            wire.send(*records)
            for text in (b"one", b"two " * 30, b"three"):
                assert wire.read(len(dialect.echo(text))) == dialect.echo(text)


@each_version
@pytest.mark.parametrize("write", [at_once, in_random_pieces(2, 30_000)], ids=["whole", "pieces"])
def test_a_mebibyte_goes_both_ways(echo, authority, write, versions):
    payload = random.Random(3).randbytes(1 << 20)
    with open_wire(echo.port, authority.client(versions=versions), write=write) as wire:
        for _ in range(3):
            wire.send(frame(BINARY, payload))
            assert wire.read_frame() == (0x80 | BINARY, payload)


def test_messages_sent_while_nobody_reads_all_come_back(echo, trust):
    # The server's records wait for a slow reader, and go on in order when it reads.
    payloads = [random.Random(seed).randbytes(100_000) for seed in range(40)]
    with open_wire(echo.port, trust) as wire:
        for payload in payloads:
            wire.send(frame(BINARY, payload))
        for payload in payloads:
            assert wire.read_frame() == (0x80 | BINARY, payload)


# -- the ends ------------------------------------------------------------------------------------------


@each_version
def test_a_clean_close_ends_with_close_notify_and_then_fin(echo, authority, versions):
    with open_wire(echo.port, authority.client(versions=versions)) as wire:
        wire.send(close_frame(1000, b"bye"))
        assert wire.read_close() == 1000
        assert wire.read_to_fin() == b""


@each_version
def test_a_page_ends_with_close_notify_and_then_fin(echo, authority, versions):
    with SecureWire(echo.port, authority.client(versions=versions)).send(HEALTH) as wire:
        assert wire.read_head().status == 200
        wire.read_to_fin()


@each_version
@pytest.mark.parametrize("dialect", [RFC_6455, HIXIE_76, HIXIE_75], ids=str)
def test_close_notify_is_answered_with_close_notify(echo, authority, dialect, versions):
    with open_wire(echo.port, authority.client(versions=versions), dialect=dialect) as wire:
        wire.say_goodbye()
        wire.read_to_fin()


@each_version
@pytest.mark.parametrize("kept", [[], ["Connection: close"]], ids=["kept alive", "not kept alive"])
@pytest.mark.parametrize("is_merged", [False, True], ids=["later", "in one piece"])
def test_what_was_asked_before_close_notify_is_answered_before_it_is(echo, authority, versions, kept, is_merged):
    with SecureWire(echo.port, authority.client(versions=versions)) as wire:
        asked = wire.records(request(*kept, target="/healthz"))
        if is_merged:
            wire.write = lambda sock, goodbye: sock.sendall(asked + goodbye)
        else:
            wire.socket.sendall(asked)
        wire.say_goodbye()
        head, body = wire.read_answer()
        assert (head.status, body) == (200, b"ok\n")
        wire.read_to_fin()


@each_version
def test_a_message_that_came_with_close_notify_is_echoed_before_the_end(echo, authority, versions):
    with open_wire(echo.port, authority.client(versions=versions)) as wire:
        said = wire.records(frame(TEXT, "last words"))
        wire.write = lambda sock, goodbye: sock.sendall(said + goodbye)
        wire.say_goodbye()
        assert wire.read_frame() == (0x80 | TEXT, b"last words")
        wire.read_to_fin()


def test_a_server_that_stops_says_goodbye_within_tls(start, here, trust):
    program = start("echo", listen=[SECURE], settings=here.settings)
    with open_wire(program.port, trust) as wire:
        stopping = threading.Thread(target=program.stop)
        stopping.start()
        assert wire.read_close() == 1001
        wire.send(close_frame(1001))
        assert wire.read_to_fin() == b""
        stopping.join()


def closed(program):
    """The next `close CODE WHO` that `certificates` prints."""
    try:
        return program.lines.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        pytest.fail("no CLOSE came")


def cut(wire):
    wire.finish()
    wire.wait_for_end()


ENDINGS = {
    "FIN": cut,
    "RST": lambda wire: reset(wire.socket),
    "FIN within a record": lambda wire: (wire.socket.sendall(wire.records(b"x" * 50)[:-5]), cut(wire)),
    "close_notify": lambda wire: wire.say_goodbye().read_to_fin(),
}


@each_version
@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_connection_that_is_cut_within_a_message_closes_with_1006(witness, authority, end, versions):
    program = witness()
    before = descriptors(program)
    for _ in range(3):
        with open_wire(program.port, authority.client(versions=versions)) as wire:
            facts_of(wire)
            wire.send(frame(TEXT, "half of it", length=1000))
            end(wire)
        assert closed(program) == "close 1006 network"
    assert eventually(lambda: descriptors(program) == before)


@each_version
def test_a_clean_end_is_told_as_one(witness, authority, versions):
    program = witness()
    with open_wire(program.port, authority.client(versions=versions)) as wire:
        facts_of(wire)
        wire.send(close_frame(4321, b"enough"))
        assert wire.read_close() == 4321
        wire.read_to_fin()
    assert closed(program) == "close 4321 peer"


@each_version
def test_a_record_that_was_tampered_with_ends_the_connection_with_an_alert(witness, authority, versions):
    program = witness()
    with open_wire(program.port, authority.client(versions=versions)) as wire:
        facts_of(wire)
        record = bytearray(wire.records(frame(TEXT, "Hello")))
        record[-1] ^= 1
        wire.socket.sendall(record)
        with pytest.raises(ssl.SSLError, match="(?i)alert bad record mac"):
            wire.read(1)
    assert closed(program).startswith("close 1006 ")


# -- what is no TLS ------------------------------------------------------------------------------------


PLAIN = {
    **{f"a {dialect} handshake": dialect.opening() for dialect in DIALECTS},
    "a page": request(target="/healthz"),
    "a form": request("Content-Length: 7", method="POST", target="/form") + b"a=1&b=2",
    "half a page": b"GET / HTTP/1.1\r\nHost: loc",
}


@pytest.mark.parametrize("write", [at_once, one_byte_at_a_time], ids=["at_once", "one_byte_at_a_time"])
@pytest.mark.parametrize("asked", PLAIN.values(), ids=PLAIN.keys())
def test_http_in_the_clear_is_answered_in_the_clear(echo, asked, write):
    with Wire(echo.port, write) as wire:
        try:
            wire.send(asked)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it knows after the first bytes
        head, body = wire.read_answer()
        assert head.first_line.startswith("HTTP/1.1 400 ")
        assert re.search(rb"TLS|https", body), f"a person reads this: {body!r}"
        assert wire.read_to_end() == b""


HELLO_OF_SSL_2 = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16)
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(1000),
    "noise": random.Random(4).randbytes(5000),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SSL 2": HELLO_OF_SSL_2,
    "a record that is too long": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "an empty record": b"\x16\x03\x01\x00\x00",
    "empty records for ever": b"\x16\x03\x03\x00\x00" * 5000,
    "a message that is too long": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380),
    "data before the handshake": b"\x17\x03\x03\x00\x05Hello",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "close_notify": b"\x15\x03\x03\x00\x02\x01\x00",
    "half a hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20),
    "an unknown record": b"\x99\x03\x03\x00\x05Hello",
    "a header of the proxy protocol": version_2("192.0.2.7"),
}


@pytest.fixture(scope="module")
def impatient(here):
    with Program("echo", listen=[SECURE], settings={**here.settings, **PAGES, "timeout.handshake": "500ms"}) as program:
        yield program


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_its_own_connection_and_nothing_else(impatient, trust, garbage):
    with open_wire(impatient.port, trust) as wire:
        with Wire(impatient.port) as nonsense:
            try:
                nonsense.send(garbage)
            except (BrokenPipeError, ConnectionResetError):
                pass
            nonsense.wait_for_end()
        converse(wire)


def test_a_client_that_does_not_trust_the_certificate_leaves_and_the_next_is_served(echo, trust, stranger):
    foreign = ssl.create_default_context(cafile=stranger.cert)
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError):
            SecureWire(echo.port, foreign)
    with open_wire(echo.port, trust) as wire:
        converse(wire)


@pytest.mark.parametrize("until", ["hello", "half a hello", "tls"])
def test_a_client_that_stops_within_the_handshake_is_cut_in_time(impatient, trust, until):
    with SecureWire(impatient.port, trust, handshake=False) as wire:
        if until == "tls":
            wire.shake_hands()
        elif until == "hello":
            wire.say_hello()
        else:
            wire.write = lambda sock, data: sock.sendall(data[: len(data) // 2])
            wire.say_hello()
        begin = time.monotonic()
        wire.wait_for_end()
        assert time.monotonic() - begin < 3


def test_a_handshake_is_not_given_more_time_for_every_byte(impatient, trust):
    hello = []
    with SecureWire(impatient.port, trust, write=lambda _, data: hello.append(data), handshake=False) as wire:
        wire.say_hello()
        begin = time.monotonic()
        wire.socket.settimeout(0.02)
        for index in range(len(hello[0])):
            try:
                wire.socket.send(hello[0][index : index + 1])
                if wire.socket.recv(1000) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - begin < 3


# -- certificates that change while it runs ------------------------------------------------------------


def set_certificate(program, context, name, cert, key):
    """What fdx_set_certificate answers, as (status, message)."""
    with open_wire_to(program, "/certificate", context) as wire:
        wire.send(frame(TEXT, f"{name}\n{cert}\n{key}"))
        _, answer = wire.read_frame()
    status, _, message = answer.decode().partition(": ")
    return status, message


def open_wire_to(program, target, context, **wire):
    wire = SecureWire(program.port, context, **wire).send(RFC_6455.opening(target=target))
    RFC_6455.read_opening(wire)
    return wire


def shown(program, context, name):
    """The certificate that a new connection gets."""
    with SecureWire(program.port, context, name) as wire:
        return wire.tls.getpeercert(True)


def test_a_new_certificate_is_for_new_connections_and_the_open_ones_live_on(witness, authority, here, trust):
    program, renewed = witness({"threads": "2"}), authority.issue(*HERE, key_type=RSA)
    with ExitStack() as wires:
        old = [wires.enter_context(open_wire(program.port, trust)) for _ in range(4)]
        for wire in old:
            facts_of(wire)
        assert set_certificate(program, trust, "", renewed.cert, renewed.key)[0] == "FDX_OK"
        # Often enough that every thread was asked.
        assert {shown(program, trust, "localhost") for _ in range(8)} == {renewed.der}
        for wire in old:
            assert wire.tls.getpeercert(True) == here.der
            converse(wire)


def test_a_certificate_can_be_set_for_one_name(witness, authority, here):
    program, other = witness(), authority.issue("other.test")
    context = authority.client()
    context.check_hostname = False
    assert shown(program, context, "other.test") == here.der
    assert set_certificate(program, context, "other.test", other.cert, other.key)[0] == "FDX_OK"
    assert shown(program, context, "other.test") == other.der
    assert shown(program, context, "localhost") == here.der
    assert shown(program, context, None) == here.der

    renewed = authority.issue("other.test")
    assert set_certificate(program, context, "other.test", renewed.cert, renewed.key)[0] == "FDX_OK"
    assert shown(program, context, "other.test") == renewed.der


def test_a_bad_certificate_is_refused_with_a_reason_and_the_old_one_stays(witness, authority, here, trust, tmp_path):
    program, other = witness(), authority.issue(*HERE)
    expired = authority.issue_expired(*HERE)
    nonsense, empty = tmp_path / "nonsense", tmp_path / "empty"
    nonsense.write_text("no PEM at all")
    empty.write_bytes(b"")
    bad = {
        "not PEM": (nonsense, other.key, "PEM"), "a key that is no PEM": (other.cert, nonsense, "(?i)key"),
        "nothing": (empty, empty, "."), "two keys": (other.key, other.key, "(?i)certificate"),
        "two certificates": (other.cert, other.cert, "(?i)key"), "another key": (other.cert, here.key, "(?i)match"),
        "expired": (expired.cert, expired.key, "(?i)expired"),
    }
    for what, (cert, key, says) in bad.items():
        for name in ["", "other.test"]:
            status, message = set_certificate(program, trust, name, cert, key)
            assert status == "FDX_E_TLS", what
            assert re.search(says, message), f"{what}: {message!r}"
    assert shown(program, trust, "localhost") == here.der


# -- a server that can not start -----------------------------------------------------------------------


def stays_down(says, given, listen=SECURE):
    """The program says what is wrong, and with which file."""
    arguments = [argument for key, value in given.items() for argument in ("--set", f"{key}={value}")]
    code, output, errors = run_to_end("echo", "--listen", listen, *arguments)
    assert code == 1
    assert output == ""
    for pattern in says:
        assert re.search(pattern, errors), f"{pattern!r} is not said by {errors!r}"


def test_the_error_names_the_file_and_what_is_wrong_with_it(authority, here, tmp_path):
    other, expired = authority.issue(*HERE), authority.issue_expired(*HERE)
    nonsense, empty, missing = tmp_path / "nonsense.pem", tmp_path / "empty.pem", tmp_path / "missing.pem"
    nonsense.write_text("no PEM at all")
    empty.write_bytes(b"")
    broken = tmp_path / "broken.pem"
    broken.write_text(here.cert.read_text().replace("M", "N", 40))

    def files(cert, key):
        return {"tls.cert": str(cert), "tls.key": str(key)}

    stays_down([str(missing), "(?i)no such file"], files(missing, here.key))
    stays_down([str(missing), "(?i)no such file"], files(here.cert, missing))
    stays_down([str(tmp_path), "(?i)directory"], files(tmp_path, here.key))
    stays_down([str(nonsense), "PEM"], files(nonsense, here.key))
    stays_down([str(nonsense), "PEM"], files(here.cert, nonsense))
    stays_down([str(empty)], files(empty, here.key))
    stays_down([str(broken)], files(broken, here.key))
    stays_down([str(here.key), "(?i)certificate"], files(here.key, here.key))
    stays_down([str(here.cert), "(?i)key"], files(here.cert, here.cert))
    stays_down([str(other.key), "(?i)match"], files(here.cert, other.key))
    stays_down([str(expired.cert), "(?i)expired"], expired.settings)
    # The second pair of a list is looked at as closely.
    stays_down([str(expired.cert), "(?i)expired"], settings(here, expired))
    stays_down([str(here.key), "(?i)match"], files(f"{here.cert},{other.cert}", f"{here.key},{here.key}"))
    for name in (nonsense, missing, empty):
        stays_down([str(name)], {**here.settings, "tls.client_ca": str(name), "tls.client_auth": "need"})


def test_options_of_tls_that_do_not_fit_together_are_an_error(authority, here):
    stays_down(["tls.cert"], {})
    stays_down(["tls.cert"], {"tls.key": str(here.key)})
    stays_down(["tls.key"], {"tls.cert": str(here.cert)})
    stays_down(["tls.key"], {"tls.cert": f"{here.cert},{here.cert}", "tls.key": str(here.key)})
    stays_down(["tls.client_ca"], {**here.settings, "tls.client_auth": "need"})
    stays_down(["tls.client_ca"], {**here.settings, "tls.client_auth": "want"})
    stays_down(["tls.client_auth"], {**here.settings, "tls.client_auth": "perhaps"})
    stays_down(["tls.min"], {**here.settings, "tls.min": "1.1"})
    stays_down(["tls"], here.settings, listen="127.0.0.1:0?tls=perhaps")


# -- many at once, and what they leave behind ----------------------------------------------------------


def converse(wire):
    wire.send(frame(TEXT, "are you there?"))
    assert wire.read_frame() == (0x80 | TEXT, b"are you there?")


def test_a_storm_of_handshakes_does_not_keep_open_connections_waiting(echo, trust):
    with ExitStack() as wires:
        talking = wires.enter_context(open_wire(echo.port, trust))
        storm = [wires.enter_context(SecureWire(echo.port, trust, handshake=False)) for _ in range(200)]
        for wire in storm:
            wire.say_hello()
        converse(talking)
        with ThreadPoolExecutor(4) as threads:
            coming = [threads.submit(wire.shake_hands) for wire in storm]
            talks = 0
            while talks == 0 or not all(done.done() for done in coming):
                converse(talking)
                talks += 1
        for done in coming:
            done.result()
        for wire in storm:
            wire.send(RFC_6455.opening())
        for wire in storm:
            RFC_6455.read_opening(wire)
            converse(wire)
        converse(talking)


def descriptors(program):
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


def resident_bytes(program):
    if IS_SANITIZED:
        return 0
    with open(f"/proc/{program.process.pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


LEAVING = {
    "close": lambda wire: (wire.send(close_frame(1000)), wire.read_to_fin()),
    "close_notify": lambda wire: wire.say_goodbye(),
    "RST": lambda wire: reset(wire.socket),
}


def test_connections_that_left_leave_neither_descriptors_nor_memory_behind(start, here, trust):
    program = start("echo", listen=[SECURE], settings=here.settings)
    before = descriptors(program)

    def crowd_comes_and_goes():
        with ExitStack() as wires:
            crowd = [wires.enter_context(SecureWire(program.port, trust)) for _ in range(90)]
            for wire in crowd[30:]:
                wire.send(RFC_6455.opening())
                RFC_6455.read_opening(wire)
                wire.send(frame(BINARY, bytes(20_000)))
                assert wire.read_frame() == (0x80 | BINARY, bytes(20_000))
            for index, wire in enumerate(crowd):
                # Those that never asked for anything can't close.
                ways = list(LEAVING.values())[index < 30 :]
                ways[index % len(ways)](wire)
        assert eventually(lambda: descriptors(program) == before)

    for _ in range(2):
        crowd_comes_and_goes()
    settled = resident_bytes(program)
    for _ in range(4):
        crowd_comes_and_goes()
    # 360 sessions of about 10 KiB would be far more.
    assert resident_bytes(program) - settled < 1 << 20


# -- what else there is, within TLS --------------------------------------------------------------------


@each_version
def test_the_proxy_protocol_goes_ahead_of_tls(witness, authority, versions):
    program = witness({"proxy.protocol": "v2", "proxy.trusted": "127.0.0.1"})
    for write in (at_once, one_byte_at_a_time):
        facts = told(program, authority.client(versions=versions), before=version_2("192.0.2.7"), write=write)
        assert facts["address"] == "192.0.2.7"
        assert facts["tls"] == "yes"


def test_the_proxy_header_and_the_hello_may_come_in_one_piece(witness, trust):
    program = witness({"proxy.protocol": "v2", "proxy.trusted": "127.0.0.1"})
    hello = []
    with SecureWire(program.port, trust, write=lambda _, data: hello.append(data), handshake=False) as wire:
        wire.say_hello()
        wire.write = at_once
        wire.socket.sendall(version_2("192.0.2.7", b"\x04\x00\x04skip") + hello[0])
        wire.shake_hands().send(RFC_6455.opening())
        RFC_6455.read_opening(wire)
        assert facts_of(wire)["address"] == "192.0.2.7"


@pytest.mark.parametrize("dialect, header", [(HIXIE_76, "Sec-WebSocket-Location"), (HIXIE_75, "WebSocket-Location")], ids=str)
def test_old_browsers_are_told_a_wss_address(echo, trust, dialect, header):
    opening = dialect.opening("Origin: https://page.example", target="/talk?a=1", host=f"localhost:{echo.port}")
    with SecureWire(echo.port, trust).send(opening) as wire:
        assert dialect.read_opening(wire)[header] == f"wss://localhost:{echo.port}/talk?a=1"
        wire.send(dialect.text(b"hello"))
        assert wire.read(7) == dialect.echo(b"hello")


def test_pages_are_served_over_https(start, here, trust, tmp_path):
    large = random.Random(5).randbytes(3_000_000)
    (tmp_path / "large.bin").write_bytes(large)
    program = start("echo", listen=[SECURE], settings={**here.settings, **PAGES, "http.static": f"/={tmp_path}"})
    connection = http.client.HTTPSConnection("localhost", program.port, context=trust, timeout=PATIENCE_SECONDS)
    pages = {"/healthz": b"ok", "/large.bin": large, "/metrics": b"fullduplex_connections", "/healthz?again": b"ok"}
    # All on one connection.
    for target, expected in pages.items():
        connection.request("GET", target)
        answer = connection.getresponse()
        assert answer.status == 200
        assert expected in answer.read()
    connection.close()


def test_a_unix_socket_may_have_tls(start, here, trust):
    name = f"fdx-{os.getpid()}-{time.monotonic_ns():x}"
    start("echo", listen=[f"unix:@{name}?tls=1"], settings=here.settings)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"\0{name}")
    with open_wire(None, trust, sock=sock) as wire:
        converse(wire)
        wire.send(close_frame(1000))
        assert wire.read_close() == 1000
        wire.read_to_fin()


def test_a_socket_that_was_handed_over_may_have_tls(start, here, trust):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        start("echo", listen=[f"fd:{descriptor}?tls=1"], settings=here.settings, descriptors=[descriptor])
        with open_wire(listener.getsockname()[1], trust) as wire:
            converse(wire)


def test_addresses_with_and_without_tls_stand_side_by_side(start, here, trust):
    program = start("echo", listen=["127.0.0.1:0", SECURE], settings=here.settings)
    plain, secure = (int(address.rpartition(":")[2]) for address in program.addresses)
    with RFC_6455.open(plain) as wire:
        converse(wire)
    with open_wire(secure, trust) as wire:
        converse(wire)
    with Wire(secure).send(RFC_6455.opening()) as wire:
        assert wire.read_head().status == 400


def test_a_silent_connection_is_pinged_within_tls(start, here, trust):
    program = start("echo", listen=[SECURE], settings={**here.settings, "ping.interval": "100ms"})
    with open_wire(program.port, trust) as wire:
        first, _ = wire.read_frame()
        assert first == 0x89


def test_a_message_over_the_limit_is_closed_with_1009_within_tls(start, here, trust):
    program = start("echo", listen=[SECURE], settings={**here.settings, "max.message": "1k"})
    with open_wire(program.port, trust) as wire:
        wire.send(frame(TEXT, "x" * 100_000))
        assert wire.read_close() == 1009
        wire.send(close_frame(1009))
        wire.read_to_fin()
