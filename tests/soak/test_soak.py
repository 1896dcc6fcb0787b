"""The soak itself works: a short one with everything in it but the time."""

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).with_name("soak.py")


def test_a_short_soak_finds_nothing(tmp_path):
    command = [sys.executable, SOAK, "--minutes", "0.3", "--phase", "4", "--burst", "300", "--visitors", "25"]
    command += ["--table", tmp_path / "table.tsv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
