"""What an idle connection keeps of a server's memory: by how much its private memory grows with so many more of them.

Each of them has had its handshake and said something; then all are silent until the server's memory no longer changes. What the
kernel keeps for a socket is not in it.
"""
import time

from duel import Failed, Load

# The first are there before, so that what a server sets aside once does not count.
BASE_CONNECTIONS, CONNECTIONS = 2_000, 10_000
TALK_SECONDS = 0.2
LOOK_SECONDS, LOOKS_MAX = 0.5, 12
STEADY_BYTES = 64 << 10


def measure(duel, scenario):
    loads = {}
    grown = []
    try:
        for count in (BASE_CONNECTIONS, CONNECTIONS):
            for name, server in duel.servers.items():
                if count == BASE_CONNECTIONS or (name, BASE_CONNECTIONS) in loads:
                    open_connections(duel, scenario, loads, name, server, count)
            grown.append(steady_memory({name: duel.servers[name] for name, crowd in loads if crowd == count}))
        before, after = grown
        for name in after:
            one = {"bytes": (after[name] - before[name]) / CONNECTIONS, "start": duel.start, "turn": 0}
            duel.measured.slices[scenario.name][name].append(one)
    finally:
        for load in loads.values():
            load.stop()
    duel.measured.starts[scenario.name] += 1


def open_connections(duel, scenario, loads, name, server, count):
    try:
        load = Load(server, [*scenario.load, "--connections", count], duel.cores.load)
        loads[name, count] = load
        load.slice(TALK_SECONDS, TALK_SECONDS)
    except Failed as failed:
        duel.measured.fail(scenario, name, duel.start, str(failed))
        if (name, count) in loads:
            loads.pop((name, count)).stop()


def steady_memory(servers):
    """The private memory of each, once none of them changes any more; or the last that was seen."""
    seen = {}
    for _ in range(LOOKS_MAX):
        time.sleep(LOOK_SECONDS)
        last, seen = seen, {name: private_bytes(server.process.pid) for name, server in servers.items()}
        if last and all(abs(seen[name] - last[name]) < STEADY_BYTES for name in seen):
            break
    return seen


def private_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Private_"))
