"""``config/systemd/gateway.service``: systemd takes it, it is closed, and what it says starts the gateway."""

import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.settings import SETTINGS
from tests.acceptance.test_log_trouble import free_port
from tests.manual import ROOT, page

UNIT = ROOT / "config" / "systemd" / "gateway.service"
MOST_EXPOSED = 12
"""In tenths of systemd's own score, of which 100 is the worst; what the manual says."""
GATEWAY = Path(sys.executable).with_name("gateway")
LIMIT_S = 30
CLOSED = """
import ctypes, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0   # PR_SET_NO_NEW_PRIVS
libc.prctl(65, 1, 0, 0, 0)               # PR_SET_MDWE, from Linux 6.3 on: no memory is both written and run
files = min(int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
os.execv(sys.argv[2], sys.argv[2:])
"""


def directives() -> dict[str, list[str]]:
    """Return what the unit's sections say, by name: the same may stand several times."""
    found = defaultdict(list)
    for line in UNIT.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def analyze(*arguments: object) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_takes_it(tmp_path: Path) -> None:
    """Each directive and value is one that systemd knows; a misspelt one is noticed."""
    text = UNIT.read_text("utf-8").replace("/opt/gateway/bin/gateway", str(GATEWAY))
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    done = analyze("verify", "--man=no", unit)
    assert (done.stderr, done.returncode) == ("", 0)
    unit.write_text(text.replace("ProtectHome=yes", "ProtectHome=perhaps"))
    assert "perhaps" in analyze("verify", "--man=no", unit).stderr


def test_it_is_closed() -> None:
    """By systemd's own score, which the manual tells."""
    done = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", UNIT)
    assert done.returncode == 0, done.stdout.splitlines()[-1:]
    assert f"gives it {MOST_EXPOSED / 10} of 10" in page("install")


def test_its_end_is_long_enough() -> None:
    """What is in flight is finished before anything is killed, and a mistake in the settings is not tried again."""
    unit = directives()
    assert float(unit["TimeoutStopSec"][0]) > load({"GATEWAY_UPSTREAM_API_KEY": "sk-1"}).drain_s
    assert unit["KillSignal"] == ["SIGTERM"]
    assert unit["RestartPreventExitStatus"] == ["2"]


def test_what_it_sets_is_a_setting() -> None:
    """Each variable is of a secret that is loaded, those in remarks too; the manual makes the file that is needed."""
    text = UNIT.read_text("utf-8")
    loaded = dict(re.findall(r"^#?LoadCredential=([\w-]+):(\S+)$", text, re.MULTILINE))
    read = dict(re.findall(r"^#?Environment=GATEWAY_(\w+)_FILE=%d/([\w-]+)$", text, re.MULTILINE))
    assert {name.lower().replace("_", "-") for name in read} == set(read.values()) == loaded.keys()
    assert {f"GATEWAY_{name}" for name in read} <= {setting.env for setting in SETTINGS if setting.secret}
    (needed,) = directives()["LoadCredential"]
    assert needed.partition(":")[2] in page("install")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd is Linux's")
def test_what_it_says_starts_the_gateway(tmp_path: Path) -> None:
    """Its command, environment, credentials, folder, umask and limits, as systemd would; SIGTERM ends it in time."""
    unit = directives()
    credentials, state, etc = (tmp_path / name for name in ("credentials", "state", "etc"))
    for folder in (credentials, state, etc):
        folder.mkdir(mode=0o700)
    for credential in unit["LoadCredential"]:
        (credentials / credential.partition(":")[0]).write_text("sk-1")
        (credentials / credential.partition(":")[0]).chmod(0o400)
    shutil.copy(ROOT / "config" / "gateway.toml", etc)
    environ = dict(value.replace("%d", str(credentials)).split("=", 1) for value in unit["Environment"])
    (command,) = unit["ExecStart"]
    words = command.replace("/opt/gateway/bin/gateway", str(GATEWAY)).replace("/etc/gateway", str(etc)).split()
    port = free_port()
    environ |= {"GATEWAY_PORT": str(port), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    with subprocess.Popen(
        [sys.executable, "-c", CLOSED, unit["LimitNOFILE"][0], *words],
        env=environ, cwd=state, umask=int(unit["UMask"][0], 8), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert answers(process, f"http://127.0.0.1:{port}/readyz") == b'{"status":"ok","reasons":[]}'
            files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
            assert {"gateway.db", "gateway.secret"} <= files.keys()
            assert set(files.values()) == {0o600}
            process.send_signal(getattr(signal, unit["KillSignal"][0]))
            _, log = process.communicate(timeout=float(unit["TimeoutStopSec"][0]))
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert "sk-1" not in log


def answers(process: "subprocess.Popen[str]", url: str) -> bytes:
    """Return what a URL answers, once it is 200."""
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
