"""Redis and NATS, as tests/setup.sh brought them: each a process of the test's own, on a port of its own.

A broker keeps its port when it is killed and started again. Ports are taken from below those that the
kernel gives to others meanwhile.
"""

import random
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from contextlib import ExitStack

import pytest

from support.places import BROKERS
from support.programs import PATIENCE_SECONDS

HOST = "127.0.0.1"


class Broker:
    """Use it in a `with`. `folder` is its own, for what it writes."""

    # Stands in the line that says it takes connections.
    READY = NotImplemented

    def __init__(self, folder, port=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.process = None
        self.log = []

    def start(self):
        """Starts it, for the first time or again on its port, and returns when it takes connections."""
        program, *arguments = self.command()
        if not program.exists():
            pytest.fail(f"{program} is missing: run tests/setup.sh first", pytrace=False)
        self.process = subprocess.Popen([program, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, ready), daemon=True)
        self.reader.start()
        is_early = ready.wait(PATIENCE_SECONDS)
        if not is_early or self.process.poll() is not None:
            self.kill()
            pytest.fail(f"{program.name} did not start:\n" + "\n".join(self.log[-20:]))
        return self

    def kill(self):
        """Ends it as a crash does, also when it is paused."""
        self.process.kill()
        self.process.wait()
        self.reader.join(PATIENCE_SECONDS)

    def restart(self):
        self.kill()
        return self.start()

    def pause(self):
        """From here on it takes no bytes and says nothing, and its connections stay."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    def _read(self, lines, ready):
        with lines:
            for line in lines:
                self.log.append(line.rstrip("\n"))
                if self.READY in line:
                    ready.set()
        ready.set()  # it has ended, and nobody need wait


class Redis(Broker):
    """redis-server, with these lines in its configuration: {"maxmemory": "2mb"}. A key may have a list of values.

    `pair` is a certificate, for a server that speaks nothing but TLS. `as_whom` is "user:password" (or ":password"),
    for what the tests ask themselves.
    """

    READY = "Ready to accept connections"

    def __init__(self, folder, settings=None, *, pair=None, as_whom="", port=None):
        super().__init__(folder, port)
        self.pair = pair
        self.as_whom = as_whom
        secure = {"port": 0, "tls-port": self.port, "tls-auth-clients": "no"}
        if pair:
            secure |= {"tls-cert-file": pair.cert, "tls-key-file": pair.key, "tls-ca-cert-file": pair.cert}
        self.settings = {
            "bind": HOST, "save": '""', "appendonly": "no", "dir": folder, "logfile": '""', "daemonize": "no",
            **(secure if pair else {"port": self.port}), **(settings or {}),
        }

    def command(self):
        file = self.folder / "redis.conf"
        values = {key: value if isinstance(value, list) else [value] for key, value in self.settings.items()}
        file.write_text("".join(f"{key} {value}\n" for key in values for value in values[key]))
        return [BROKERS / "usr" / "bin" / "redis-server", file]

    @property
    def url(self):
        return self.url_as(self.as_whom)

    def url_as(self, as_whom, database=""):
        scheme, host = ("rediss", "localhost") if self.pair else ("redis", HOST)
        return f"{scheme}://{as_whom}{'@' if as_whom else ''}{host}:{self.port}{f'/{database}' if database != '' else ''}"

    def ask(self, *words):
        """What it answers to a command, as redis-cli shows it to a program."""
        user, _, password = self.as_whom.partition(":")
        flags = ["-h", HOST, "-p", str(self.port), *(["--tls", "--insecure"] if self.pair else [])]
        flags += ["--user", user] if user else []
        flags += ["--pass", password, "--no-auth-warning"] if password else []
        done = subprocess.run([BROKERS / "usr" / "bin" / "redis-cli", *flags, "-e", *map(str, words)],
                              capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def subscribers(self, channel, is_sharded=False):
        """How many connections have subscribed to a channel."""
        return int(self.ask("PUBSUB", "SHARDNUMSUB" if is_sharded else "NUMSUB", channel).splitlines()[1])


class Cluster:
    """Three masters with a third of the slots each, and one replica, which follows the first. Use it in a `with`."""

    NODE_TIMEOUT_MS = 1000
    SLOTS = [(0, 5460), (5461, 10922), (10923, 16383)]

    def __init__(self, folder, settings=None):
        settings = {
            "cluster-enabled": "yes", "cluster-node-timeout": self.NODE_TIMEOUT_MS, "cluster-announce-ip": HOST,
            # The replica follows at once, and takes over however long it has heard nothing.
            "repl-diskless-sync-delay": 0, "cluster-replica-validity-factor": 0,
            **(settings or {}),
        }
        self.nodes = [Redis(folder / str(number), {**settings, "cluster-port": free_port()}) for number in range(4)]
        self.masters, self.replica = self.nodes[:3], self.nodes[3]

    @property
    def url(self):
        """All masters: who finds the first one gone asks the next."""
        return ",".join(master.url for master in self.masters)

    def subscribers(self, channel, is_sharded=False):
        return sum(node.subscribers(channel, is_sharded) for node in self.nodes if node.process.poll() is None)

    def __enter__(self):
        with ExitStack() as started:
            for node in self.nodes:
                started.enter_context(node)
            self._meet()
            self.started = started.pop_all()
        return self

    def __exit__(self, *_):
        self.started.close()

    def _meet(self):
        first = self.nodes[0]
        for number, (node, slots) in enumerate(zip(self.masters, self.SLOTS)):
            node.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
            # Known from the beginning, they need not be agreed on.
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", HOST, first.port, first.settings["cluster-port"])
        for node in self.nodes:
            wait_until(lambda: "cluster_known_nodes:4" in (said := node.ask("CLUSTER", "INFO")) and "cluster_state:ok" in said,
                       "the nodes of the cluster have met")
        self.replica.ask("CLUSTER", "REPLICATE", first.ask("CLUSTER", "MYID"))
        wait_until(lambda: "master_link_status:up" in self.replica.ask("INFO", "replication"), "the replica follows")
        for node in self.nodes:
            wait_until(lambda: node.ask("CLUSTER", "NODES").count("slave") == 1, "everybody knows the replica")


class Nats(Broker):
    """nats-server, with these flags beside its address."""

    READY = "Server is ready"

    def __init__(self, folder, *flags, port=None):
        super().__init__(folder, port)
        self.flags = flags

    def command(self):
        return [BROKERS / "usr" / "sbin" / "nats-server", "--addr", HOST, "--port", str(self.port), *self.flags]

    @property
    def url(self):
        return f"nats://{HOST}:{self.port}"


def free_port():
    for _ in range(100):
        with socket.socket() as trial:
            try:
                trial.bind((HOST, port := random.randint(20_000, 32_000)))
                return port
            except OSError:
                pass  # somebody's
    pytest.fail("no port is free")


def wait_until(condition, what, patience_seconds=PATIENCE_SECONDS):
    """Looks again and again until it is so."""
    deadline = time.monotonic() + patience_seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"after {patience_seconds} s it is still not so: {what}"
        time.sleep(0.02)
    return result


class BadLine:
    """A port before a broker, by which bytes come and go in pieces of a few and connections end in the middle of
    something, each after so many bytes of both ways together as `lives` says next; then they live for ever. Use it in a
    `with`."""

    PIECE_BYTES_MAX = 7

    def __init__(self, broker, lives):
        self.broker = broker
        self.lives = deque(lives)
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        self.is_over = False
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join(PATIENCE_SECONDS)
        self.listener.close()

    def _serve(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            while not self.is_over:
                for key, _ in selector.select(0.05):
                    if key.fileobj is self.listener:
                        self._connect(selector)
                    elif key.fileobj.fileno() >= 0:
                        self._pass_on(selector, key.fileobj, *key.data)
            for key in list(selector.get_map().values()):
                key.fileobj.close()

    def _connect(self, selector):
        client, _ = self.listener.accept()
        server = socket.create_connection((HOST, self.broker.port))
        life = [self.lives.popleft() if self.lives else None]
        for one, other in [(client, server), (server, client)]:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(one, selectors.EVENT_READ, (other, life))

    def _pass_on(self, selector, one, other, life):
        try:
            piece = one.recv(self.PIECE_BYTES_MAX)
            if life[0] is not None:
                piece = piece[: life[0]]
                life[0] -= len(piece)
            other.sendall(piece)
        except OSError:
            piece = b""
        if not piece or life[0] == 0:
            for end in (one, other):
                selector.unregister(end)
                end.close()
