"""What `make install` leaves is what a C program finds by pkg-config."""

import os
import subprocess

from building import STRICT, run
from support.places import ROOT


def test_an_installed_library_is_found_by_pkg_config_and_by_its_soname(tmp_path):
    run(["make", "--silent", "install", f"PREFIX={tmp_path}"], cwd=ROOT)
    env = {**os.environ, "PKG_CONFIG_PATH": str(tmp_path / "lib" / "pkgconfig")}
    flags = run(["pkg-config", "--cflags", "--libs", "fullduplex"], env=env).split()
    program = tmp_path / "echo"
    run(["gcc", "-std=c99", *STRICT, "-o", program, ROOT / "examples" / "c" / "echo.c", *flags])
    needed = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    assert "libfullduplex.so.0" in needed
    run([program, "--help"], env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "lib")})
