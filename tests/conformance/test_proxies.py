"""Behind a proxy a client is whom the proxy names, and nobody else can name anybody.

With max.connections_per_ip at 1 a second connection of the same client gets 429, which shows for
whom the server takes it. First byte by byte, then through HAProxy and nginx as people run them.
"""

import os
import re
import shutil
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from itertools import count

import pytest
from websockets.sync.client import connect

from support.dialects import DIALECTS, HIXIE_76, RFC_6455
from support.places import ENV
from support.programs import PATIENCE_SECONDS, Program
from support.wire import Wire, at_once, one_byte_at_a_time, request

ONE_EACH = {"max.connections_per_ip": "1"}
BEHIND = {"proxy.trusted": "127.0.0.1, 10.0.0.0/8", **ONE_EACH}
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def version_1(ip):
    return f"PROXY TCP4 {ip} 203.0.113.1 4711 80\r\n".encode()


def version_2(ip, tlvs=b""):
    addresses = socket.inet_aton(ip) + socket.inet_aton("203.0.113.1") + struct.pack("!HH", 4711, 80)
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(addresses + tlvs)) + addresses + tlvs


# How a proxy names its client: the settings that let it, bytes before the request, a header.
NAMING = {
    "version 1": ({"proxy.protocol": "v1"}, version_1, None),
    "version 2": ({"proxy.protocol": "v2"}, version_2, None),
    "version 2 with TLVs": ({"proxy.protocol": "any"}, lambda ip: version_2(ip, b"\x04\x01\x00" + bytes(256)), None),
    "X-Forwarded-For": ({"forwarded.headers": "x-forwarded-for"}, None, "X-Forwarded-For: 6.6.6.6, {}, 10.1.2.3"),
    "Forwarded": ({"forwarded.headers": "forwarded"}, None, 'Forwarded: for=6.6.6.6, for="{}:4711";proto=https'),
}

NUMBERS = count(1)


def new_client():
    """An address that no test has named before."""
    return f"172.{16 + (number := next(NUMBERS)) // 250}.0.{number % 250 + 1}"


@pytest.fixture(scope="module", params=NAMING.values(), ids=NAMING.keys())
def named(request):
    """(a server, what a proxy says of a client before the request, and within it)"""
    settings, before, header = request.param
    with Program("echo", settings={**BEHIND, **settings}) as program:
        yield program, before or (lambda ip: b""), (lambda ip: [header.format(ip)] if header else [])


@pytest.mark.parametrize("dialect, write", [
    *((dialect, at_once) for dialect in DIALECTS), (RFC_6455, one_byte_at_a_time), (HIXIE_76, one_byte_at_a_time),
], ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_client_is_whom_its_proxy_names(named, dialect, write):
    program, before, headers = named
    ip, other_ip = new_client(), new_client()
    with ExitStack() as wires:
        first, second, other = (wires.enter_context(Wire(program.port, write)) for _ in range(3))
        for wire, whose in [(first, ip), (other, other_ip)]:
            wire.send(before(whose), dialect.opening(*headers(whose)))
            dialect.read_opening(wire)
            wire.send(dialect.text(b"hello"))
            assert wire.read(len(dialect.echo(b"hello"))) == dialect.echo(b"hello")
        second.send(before(ip), dialect.opening(*headers(ip)))
        assert second.read_head().status == 429


def test_a_header_and_a_request_can_be_parted_anywhere(start):
    program = start("echo", settings={"proxy.trusted": "127.0.0.1", "proxy.protocol": "any"})
    conversation = version_2("192.0.2.7", b"\x04\x00\x04skip") + RFC_6455.opening() + RFC_6455.text(b"hello")
    for cut in [*range(0, 50, 3), len(conversation) - 3]:
        with Wire(program.port).send(conversation[:cut]) as wire:
            time.sleep(0.002)
            wire.send(conversation[cut:])
            RFC_6455.read_opening(wire)
            assert wire.read(7) == RFC_6455.echo(b"hello")


# -- who is not trusted, and what is no header --------------------------------------------------------


@pytest.mark.parametrize("trusted", ["", "192.0.2.1, 10.0.0.0/8, unix, ::1"])
def test_who_is_not_trusted_can_not_begin_with_the_proxy_protocol(start, trusted):
    program = start("echo", settings={"proxy.protocol": "any", "proxy.trusted": trusted})
    for dialect in DIALECTS:
        for header in [version_1(new_client()), version_2(new_client())]:
            with Wire(program.port).send(header, dialect.opening()) as wire:
                assert wire.read_head().status == 400
        dialect.open(program.port).close()


@pytest.mark.parametrize("trusted", ["", "192.0.2.1, 10.0.0.0/8, unix, ::1"])
@pytest.mark.parametrize("naming", ["X-Forwarded-For", "Forwarded"])
def test_who_is_not_trusted_is_one_client_whatever_it_writes(start, naming, trusted):
    settings, _, header = NAMING[naming]
    program = start("echo", settings={**ONE_EACH, **settings, "proxy.trusted": trusted})
    with RFC_6455.open(program.port, header.format(new_client())):
        for dialect in DIALECTS:
            with Wire(program.port).send(dialect.opening(header.format(new_client()))) as wire:
                assert wire.read_head().status == 429


def test_the_other_header_and_what_the_client_wrote_itself_count_for_nothing(start):
    program = start("echo", settings={**BEHIND, "forwarded.headers": "x-forwarded-for"})
    with RFC_6455.open(program.port, "Forwarded: for=6.6.6.6", "X-Forwarded-For: 7.7.7.7, 192.0.2.7"):
        spoof = RFC_6455.opening("Forwarded: for=8.8.8.8", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 192.0.2.7")
        with Wire(program.port).send(spoof) as wire:
            assert wire.read_head().status == 429


MALFORMED = {
    "no header": RFC_6455.opening(),
    "another word": b"PROXI TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "another family": b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    "an address of another family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "an octet over 255": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
    "two blanks": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "a port over 65535": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "a port with a sign": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "a port with a zero before it": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "one port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "LF alone": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\nGET",
    "CR alone": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rGET",
    "a line without an end": b"PROXY UNKNOWN " + b"x" * 200,
    "another signature": SIGNATURE[:-1] + b"!" + b"\x21\x11\x00\x0c" + bytes(12),
    "version 3": SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
    "another command": SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
    "another binary family": SIGNATURE + b"\x21\x41\x00\x0c" + bytes(12),
    "too short for its addresses": SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
    "too long": SIGNATURE + b"\x21\x11\xff\xff" + bytes(12),
}


@pytest.fixture(scope="module")
def announced():
    with Program("echo", settings={**BEHIND, "proxy.protocol": "any"}) as program:
        yield program


@pytest.mark.parametrize("write", [at_once, one_byte_at_a_time])
@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_proxy_that_breaks_its_protocol_is_cut_without_a_word(announced, header, write):
    with Wire(announced.port, write) as wire:
        try:
            wire.send(header)
        except (BrokenPipeError, ConnectionResetError):
            pass  # cut before the last byte
        try:
            assert wire.socket.recv(1) == b""
        except ConnectionResetError:
            pass
    with Wire(announced.port).send(version_1(new_client()), RFC_6455.opening()) as wire:
        RFC_6455.read_opening(wire)


@pytest.mark.parametrize("versions, header", [("v1", version_2("192.0.2.7")), ("v2", version_1("192.0.2.7"))])
def test_the_other_version_is_no_header(start, versions, header):
    program = start("echo", settings={**BEHIND, "proxy.protocol": versions})
    with Wire(program.port).send(header) as wire:
        wire.wait_for_end()


@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4 192.0.2.7 ", version_2("192.0.2.7")[:20], version_2("192.0.2.7")])
def test_a_header_or_request_that_does_not_come_in_time_is_not_waited_for(start, begun):
    program = start("echo", settings={**BEHIND, "proxy.protocol": "any", "timeout.handshake": "200ms"})
    with Wire(program.port).send(begun) as wire:
        wire.wait_for_end()


def test_who_comes_over_a_unix_socket_is_named_if_such_sockets_are_trusted(start):
    name = f"fdx-{os.getpid()}-{time.monotonic_ns():x}"
    start("echo", listen=[f"unix:@{name}"], settings={**ONE_EACH, "proxy.trusted": "unix", "proxy.protocol": "v1"})
    with ExitStack() as sockets:
        heads = []
        for ip in ["192.0.2.7", "192.0.2.7", "192.0.2.8"]:
            sock = sockets.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(PATIENCE_SECONDS)
            sock.connect(f"\0{name}")
            sock.sendall(version_1(ip) + RFC_6455.opening())
            heads.append(sock.recv(100)[:12])
    assert heads == [b"HTTP/1.1 101", b"HTTP/1.1 429", b"HTTP/1.1 101"]


# -- HAProxy and nginx ---------------------------------------------------------------------------------


def find(name):
    program = shutil.which(name, path=f"{ENV / 'proxies' / 'usr' / 'sbin'}:{os.environ['PATH']}:/usr/sbin")
    return program or pytest.fail(f"{name} is missing: run tests/setup.sh first", pytrace=False)


@contextmanager
def running(command, folder, listener, **environment):
    """The port of a proxy in the foreground, which is given its socket and ends with the block."""
    log, port = folder / "log", listener.getsockname()[1]
    # From here on the socket is the proxy's alone: if it does not start, clients are refused and need not wait.
    with listener, log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   pass_fds=[listener.fileno()], env={**os.environ, **environment})
    try:
        yield port
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def haproxy(folder, server_port, how):
    """An HAProxy before a server, which it checks twenty times a second."""
    listener = socket.create_server(("127.0.0.1", 0))
    (folder / "haproxy.cfg").write_text(f"""
global
    maxconn 100
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen chat
    bind fd@{listener.fileno()}
    {how.get("option", "")}
    server chat 127.0.0.1:{server_port} {how["server"]} inter 50ms
""")
    return running([find("haproxy"), "-db", "-f", "haproxy.cfg"], folder, listener)


def nginx(folder, server_port, _=None):
    """An nginx before a server. It names clients in X-Forwarded-For, behind what they say
    themselves, and keeps its connection to the server for the next client."""
    listener = socket.create_server(("127.0.0.1", 0))
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};"
                         for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    (folder / "nginx.conf").write_text(f"""
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    {temporary}
    map $http_upgrade $hop {{ default upgrade; '' ''; }}
    upstream chat {{ server 127.0.0.1:{server_port}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{listener.getsockname()[1]};
        location / {{
            proxy_pass http://chat;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $hop;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
""")
    command = [find("nginx"), "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
    # It takes the socket over as in an upgrade of itself.
    return running(command, folder, listener, NGINX=f"{listener.fileno()};")


HAPROXY = {
    "version 1": {"server": "send-proxy check"},
    "version 2": {"server": "send-proxy-v2 check"},
    "version 2 with options": {"server": "send-proxy-v2 proxy-v2-options crc32c,unique-id check"},
    "version 2 and HTTP checks": {"server": "send-proxy-v2 check check-send-proxy", "option": "option httpchk GET /healthz"},
}
REAL = {**{f"HAProxy, {name}": (haproxy, {"proxy.protocol": "any"}, how) for name, how in HAPROXY.items()},
        "nginx": (nginx, {"forwarded.headers": "x-forwarded-for"}, None)}


def comes(port, ip, **options):
    """A client of this address."""
    return connect(f"ws://127.0.0.1:{port}/chat", source_address=(ip, 0), open_timeout=PATIENCE_SECONDS, **options)


def status(port, ip, asks):
    """What a client of this address is answered. It may know that before it has asked."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS, source_address=(ip, 0)) as client:
        client.sendall(asks)
        answer = HTTPResponse(client)
        answer.begin()
        answer.read()
        return answer.status


def says(client, text):
    client.send(text)
    return client.recv(timeout=PATIENCE_SECONDS)


@pytest.fixture(params=REAL.values(), ids=REAL.keys())
def proxied(request, tmp_path, start):
    """(a chat server, the port of a proxy before it)"""
    proxy, settings, how = request.param
    trust = {"proxy.trusted": "127.0.0.1", "http.metrics": "/metrics", "http.health": "/healthz", **ONE_EACH, **settings}
    server = start("chat", settings=trust)
    with proxy(tmp_path, server.port, how) as port:
        yield server, port


def counted(server, what):
    """A number of /metrics, asked for as a proxy of the server asks for itself."""
    line = b"" if server.settings.get("forwarded.headers") else b"PROXY UNKNOWN\r\n"
    with Wire(server.port).send(line, request("Connection: close", target="/metrics")) as wire:
        head = wire.read_head()
        body = wire.read_to_end().decode()
    assert head.status == 200
    return int(re.search(rf"^fullduplex_{what} (\d+)$", body, re.M)[1])


def test_clients_of_a_real_proxy_are_told_apart(proxied):
    server, port = proxied
    with comes(port, "127.0.0.2") as ann, comes(port, "127.0.0.3", additional_headers={"X-Forwarded-For": "127.0.0.2"}) as bob:
        ann.send("hello")
        assert ann.recv(timeout=PATIENCE_SECONDS) == bob.recv(timeout=PATIENCE_SECONDS) == "hello"
        for line in ["X-Nothing: said", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6"]:
            assert status(port, "127.0.0.2", RFC_6455.opening(line, target="/chat")) == 429
        assert says(bob, "x" * 300_000) == "x" * 300_000
        assert ann.recv(timeout=PATIENCE_SECONDS) == "x" * 300_000
    assert counted(server, "handshake_errors_total") == 0


@pytest.mark.parametrize("how", HAPROXY.values(), ids=HAPROXY.keys())
def test_the_health_checks_of_haproxy_are_no_errors_and_take_nobodys_place(tmp_path, start, how):
    server = start("echo", settings={"proxy.trusted": "127.0.0.1", "proxy.protocol": "any", "http.health": "/healthz",
                                     "http.metrics": "/metrics"})
    with haproxy(tmp_path, server.port, how) as port:
        before = counted(server, "accepted_total")
        with comes(port, "127.0.0.2") as client:
            deadline = time.monotonic() + PATIENCE_SECONDS
            before += 1
            for look in count(1):  # each is a connection, too
                checks = counted(server, "accepted_total") - before - look
                if checks >= 3:
                    break
                assert time.monotonic() < deadline, f"{checks} checks came"
                time.sleep(0.03)
            assert says(client, "still here") == "still here"
        assert counted(server, "handshake_errors_total") == counted(server, "rejected_total") == 0


def test_requests_of_several_clients_on_one_connection_of_nginx_are_told_apart(tmp_path, start):
    server = start("chat", settings={"proxy.trusted": "127.0.0.1", "forwarded.headers": "x-forwarded-for",
                                     "http.metrics": "/metrics", **ONE_EACH})
    page = request("Connection: close")
    with nginx(tmp_path, server.port) as port, comes(port, "127.0.0.2"):
        before = counted(server, "accepted_total")
        # 127.0.0.2 has its one connection already; the others come one after the other.
        statuses = [status(port, f"127.0.0.{number}", page) for number in [3, 4, 3, 5]]
        assert statuses == [200] * 4
        assert counted(server, "accepted_total") == before + 1 + 1, "nginx asks over one connection, and we over one"
        assert status(port, "127.0.0.2", page) == 429
