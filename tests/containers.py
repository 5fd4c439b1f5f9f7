"""The container image, built by ``make image`` and run by podman: with storage, and a base, of the tests' own.

The base is made of Debian's packages, as no registry of images is asked: Debian 13 with its Python, in a file below
``build/`` that is kept for the next time. Owns where all of that is. Called by the tests in ``tests/image``.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.manual import ROOT

__all__ = ["BASE", "WITH_AN_ENGINE", "Container", "Engine", "make_base"]

BASE = "localhost/gateway-base"
SUITE, PACKAGES = "trixie", "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
LIMIT_S = 900
RUNTIME = next(filter(None, map(shutil.which, ("runc", "crun"))), None)
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")  # podman's own are more than a sandbox may set

_missing = [name for name in ("buildah", "podman", "debootstrap") if shutil.which(name) is None]
WITH_AN_ENGINE = [
    pytest.mark.skipif(bool(_missing) or RUNTIME is None, reason="apt install buildah podman runc debootstrap"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root"),
    pytest.mark.timeout(2 * LIMIT_S),
]
"""What a module of such tests is marked with."""


def make_base() -> Path:
    """Return the base's files as one tar; made with debootstrap where there is none yet, which takes minutes."""
    kept = ROOT / "build" / f"image-base-{SUITE}.tar"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        scripts = Path("/usr/share/debootstrap/scripts")
        script = next(path for path in (scripts / SUITE, scripts / "sid") if path.exists())
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            root, tar = Path(folder) / "root", Path(folder) / "base.tar"
            mirror = "http://deb.debian.org/debian"
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root, mirror, script)
            if ("/" / CERTIFICATES).exists():  # pip in the build trusts whom this machine trusts
                shutil.copyfile("/" / CERTIFICATES, root / CERTIFICATES)
            for rubbish in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*"):
                for path in root.glob(rubbish):
                    path.unlink()
            _run("tar", "--create", "--one-file-system", f"--directory={root}", f"--file={tar}", ".")
            tar.rename(kept)
    return kept


class Container:
    """One that runs: what is done in it, and its end."""

    def __init__(self, engine: "Engine", name: str) -> None:
        self._engine = engine
        self.name = name

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as the image's user."""
        return self._engine.podman("exec", self.name, *command, check=check)

    def begin(self, *command: str) -> None:
        """Start a command in it that goes on."""
        self._engine.podman("exec", "--detach", self.name, *command)

    def log(self) -> str:
        """Return what its first process has written so far."""
        done = self._engine.podman("logs", self.name)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Send the image's stop signal; return the exit code."""
        self._engine.podman("stop", "--time", "30", self.name)
        return int(self._engine.podman("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


class Engine:
    """Images and containers in a folder that goes with the tests."""

    def __init__(self, folder: Path) -> None:
        conf = folder / "storage.conf"
        conf.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n', "utf-8")
        self._environ = {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf), "BUILDAH_ISOLATION": "chroot"}
        self._environ |= {"TMPDIR": str(folder)}

    def add_base(self, tar: Path) -> None:
        """Make the image of a base."""
        name = self._run("buildah", "from", "scratch").stdout.strip()
        self._run("buildah", "add", "--quiet", name, tar, "/")
        self._run("buildah", "commit", "--quiet", "--rm", name, BASE)

    def build(self, name: str, form: str) -> None:
        """Make the image of HEAD, from the base up, in the form ``docker`` or ``oci``."""
        words = (f"IMAGE={name}", f"FORMAT={form}", f"BASE={BASE}", "ARGS=--no-cache")
        self._run("make", "--no-print-directory", "image", *words)

    def image(self, name: str) -> Any:
        """Return what the engine knows of an image."""
        (found,) = json.loads(self.podman("image", "inspect", name).stdout)
        return found

    def health_command(self, name: str) -> list[str]:
        """Return what an image has run to ask for its health."""
        told = json.loads(self._run("buildah", "inspect", "--type=image", name).stdout)
        kind, *command = told["Docker"]["config"]["Healthcheck"]["Test"]
        assert kind == "CMD"
        return command

    def podman(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        options = (f"--runtime={RUNTIME}", "--cgroup-manager=cgroupfs", "--events-backend=file")
        return self._run("podman", *options, *words, check=check)

    def once(self, image: str, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        """Run a container to its end, on a root that is read only and with no network."""
        return self.podman("run", "--rm", *self._how(environ), image, *command, check=False)

    @contextmanager
    def container(self, image: str, *command: str, **environ: str) -> Iterator[Container]:
        """Run a container until the block ends, on a root that is read only and with no network but its loopback."""
        name = self.podman("run", "--detach", *self._how(environ), image, *command).stdout.strip()
        try:
            yield Container(self, name)
        finally:
            self.podman("rm", "--force", "--volumes", name)

    @staticmethod
    def _how(environ: Mapping[str, str]) -> list[str]:
        variables = [f"--env={name}={value}" for name, value in environ.items()]
        return ["--read-only", "--network=none", "--no-healthcheck", "--cap-drop=all", *LIMITS, *variables]

    def _run(self, *words: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return _run(*words, check=check, environ=self._environ)


def _run(
    *words: str | Path, check: bool = True, environ: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert not check or done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done
