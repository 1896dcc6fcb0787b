"""Puts the native library into the wheel, and names the platform that it was built for.

    FULLDUPLEX_LIBRARY    the library; else the checkout's target/release
    FULLDUPLEX_PLATFORM   the wheel's platform tag, such as manylinux_2_34_x86_64; else this machine's
"""

import os
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE_NAMES = {"win": "fullduplex.dll", "mac": "libfullduplex.dylib"}


class NativeLibrary(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name != "wheel" or version == "editable":
            return
        platform = os.environ.get("FULLDUPLEX_PLATFORM") or sysconfig.get_platform()
        platform = platform.replace("-", "_").replace(".", "_")
        file_name = FILE_NAMES.get(platform[:3], "libfullduplex.so")
        library = os.environ.get("FULLDUPLEX_LIBRARY") or Path(self.root, "..", "..", "target", "release", file_name)
        if not Path(library).is_file():
            raise FileNotFoundError(f"{library} is missing: run `cargo build --release` first, or set FULLDUPLEX_LIBRARY")
        build_data["pure_python"] = False
        # No compiled code of Python's own: one wheel serves every Python 3.
        build_data["tag"] = f"py3-none-{platform}"
        build_data["force_include"][os.path.abspath(library)] = f"fullduplex/{file_name}"
        # For `python -m fullduplex chat`.
        page = Path(self.root, "..", "..", "examples", "web", "chat.html")
        if page.is_file():
            build_data["force_include"][str(page.resolve())] = "fullduplex/chat.html"
