"""What the example programs share: the command line, the lines that say where a server listens,
and the wait for Ctrl-C. Nothing here is needed to use the library."""

import asyncio
import signal
import sys
from typing import Any, Callable, Coroutine, Dict, List, NoReturn, Optional

import fullduplex


class Options:
    """`listen` and `settings` are for `fullduplex.serve`."""

    def __init__(self, about: str, default_address: str, page: Optional[str] = None) -> None:
        self.about = about
        self.default_address = default_address
        self.page = page
        self.takes_page = page is not None
        self.listen: List[str] = []
        self.settings: Dict[str, Any] = {}
        self._read(sys.argv[1:])

    def _read(self, arguments: List[str]) -> None:
        program = sys.argv[0]
        while arguments:
            name = arguments.pop(0)
            if name == "--help":
                self._print_help(program)
                sys.exit(0)
            if name not in ("--listen", "--set") and not (name == "--page" and self.takes_page):
                give_up(f"unknown option {name}, see {program} --help")
            if not arguments:
                give_up(f"{name} needs a value, see {program} --help")
            value = arguments.pop(0)
            if name == "--listen":
                self.listen.append(value)
            elif name == "--page":
                self.page = value
            else:
                self._set(value)
        self.listen = self.listen or [self.default_address]

    def _set(self, setting: str) -> None:
        key, equals, value = setting.partition("=")
        if not equals:
            give_up("--set needs KEY=VALUE, such as --set max.message=1m")
        if key == "listen":
            self.listen.append(value)
        else:
            self.settings[key] = value

    def _print_help(self, program: str) -> None:
        page_usage = " [--page FILE]" if self.takes_page else ""
        print(f"{program}: {self.about}\n\nusage: {program} [--listen ADDR]... [--set KEY=VALUE]...{page_usage}\n")
        print(f"  --listen ADDR     127.0.0.1:8080, :8080, [::1]:8080; port 0 picks a free one (default {self.default_address})")
        print("  --set KEY=VALUE   any option of the library, such as max.message=1m or threads=2")
        if self.takes_page:
            print("  --page FILE       the page to serve")
        print("  --help            this text")


def give_up(message: object) -> NoReturn:
    """Says what is wrong and ends the program."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


async def serve_until_signal(
    serving: fullduplex.serve, reason: str, link: bool = False,
    begin: Optional[Callable[[fullduplex.AsyncServer], Coroutine[Any, Any, None]]] = None,
) -> None:
    """Prints "listening on ADDRESS" for each listener, and stops politely at SIGINT or SIGTERM.
    `begin` runs beside the server, from its start on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await serving
    except fullduplex.Error as error:
        give_up(error)
    for address in server.addresses:
        print(f"listening on {address}")
    if link and server.port:
        host = server.addresses[0].rpartition(":")[0]
        # They are every address of this machine; the browser is told one of them.
        host = "127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host
        print(f"open http://{host}:{server.port}/")
    sys.stdout.flush()
    beginning = asyncio.ensure_future(begin(server)) if begin is not None else None
    await stop.wait()
    if beginning is not None:
        beginning.cancel()
    server.close(1001, reason, deadline=2)
    await server.wait_closed()
