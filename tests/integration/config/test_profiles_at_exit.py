"""Reading the profiles leaves the interpreter's memory whole."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = """
from gateway.config.profilefile import config_dir, read_profiles
read_profiles([config_dir() / "upstreams"])[0]
"""


def test_a_process_that_read_the_profiles_ends_well() -> None:
    """The types of a profile are none of those on which msgspec frees memory twice, seen when malloc checks."""
    environment = {**os.environ, "PYTHONMALLOC": "debug", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
