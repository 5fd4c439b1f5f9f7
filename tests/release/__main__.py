"""``make release-check``: build what would be handed out, and use it where nothing of the checkout is.

sdist and wheel are built twice, and the wheel from the sdist; what is in them, the changelog and the version are held
against one another. Then the wheel is installed, with the packages of the lock, into an empty environment outside of
the checkout, and its demo, its commands and its pages are run there, with every opening of a file of the checkout
refused. What holds is left in ``dist/``, with its hashes. Needs the registry of packages, for the environment. Exits 1
with what is wrong.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.printing import report_output
from tests.release import changelog, package
from tests.release.package import ROOT

LIMIT_S = 300
KEEP_OUT = """
import os, sys

def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "sqlite3.connect") and arguments:
        path = arguments[0]
        if isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith({root!r} + os.sep):
            raise PermissionError(f"{{path}} is of the checkout")

sys.addaudithook(refuse)
"""
"""Imported by every interpreter of the environment at its start."""


def say(text: str) -> None:
    print(text, flush=True)


def give_up(faults: list[str]) -> None:
    if faults:
        sys.exit("\n".join(faults))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def built(folder: Path) -> tuple[Path, Path]:
    """Return the sdist and the wheel, once a second build and the way over the sdist have given the same bytes."""
    source = package.copy_of_head(folder / "head")
    made = {
        (kind, turn): package.build(source, folder / f"{kind}{turn}", kind)
        for kind in ("sdist", "wheel")
        for turn in (1, 2)
    }
    sdist, wheel = made["sdist", 1], made["wheel", 1]
    over = package.build(package.unpacked(sdist, folder / "unpacked"), folder / "over", "wheel")
    give_up(
        [
            f"Two builds of the {kind} differ."
            for kind in ("sdist", "wheel")
            if digest(made[kind, 1]) != digest(made[kind, 2])
        ]
        + (["The sdist gives another wheel than the checkout."] if digest(over) != digest(wheel) else [])
        + package.faults(source, sdist, wheel)
    )
    say(f"built twice, the same bytes: {sdist.name}, {wheel.name}; the sdist gives the same wheel")
    return sdist, wheel


def version_holds(wheel: Path) -> None:
    """Hold version, image, changelog and tag against one another."""
    version = wheel.name.split("-")[1]
    tags = package.git("tag", "--points-at", "HEAD").split() if package.has_git() else []
    tag = next((tag for tag in tags if re.match(r"v\d", tag)), None)
    wrong = changelog.faults((ROOT / "CHANGELOG.md").read_text("utf-8"), version, tag)
    if f'image.version="{version}"' not in (ROOT / "Dockerfile").read_text("utf-8"):
        wrong.append(f"The Dockerfile's label is not {version}.")
    give_up(wrong)
    say(
        f"version {version}, " + (f"tagged {tag}" if tag else f"no tag: a release is tagged v{version}, with a section")
    )


class Elsewhere:
    """An environment outside of the checkout, with the wheel in it."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._cwd = folder / "elsewhere"
        self._bin = folder / "env" / "bin"
        guard = folder / "guard"
        for made in (self._cwd, guard):
            made.mkdir()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PYTHON", "VIRTUAL"))
        }
        self._plain = kept | {"HOME": str(self._cwd), "PATH": f"{self._bin}:/usr/bin:/bin"}
        shutil.copy(wheel, folder)
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        pip = (self._bin / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
        lock = ("install", "--require-hashes", "-r", ROOT / "requirements.lock")
        for words in (lock, ("install", "--no-index", folder / wheel.name), ("check",)):
            subprocess.run([*pip, *words], cwd=self._cwd, env=os.environ | {"HOME": str(self._cwd)}, check=True)
        (guard / "sitecustomize.py").write_text(KEEP_OUT.format(root=str(ROOT)), "utf-8")
        self._environ = self._plain | {"PYTHONPATH": str(guard)}

    def run(self, *words: str, **more: str) -> str:
        """Run a command of the environment; return what it printed."""
        done = subprocess.run(
            [str(self._bin / words[0]), *words[1:]],
            cwd=self._cwd, env=self._environ | more, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def is_kept_out(self) -> None:
        """Make sure that the guard works: without it all of this would hold beside the checkout too."""
        words = [self._bin / "python", "-c", f"open({str(ROOT / 'README.md')!r})"]
        done = subprocess.run(words, cwd=self._cwd, env=self._environ, capture_output=True, text=True, check=False)
        give_up([] if "is of the checkout" in done.stderr else ["The checkout could be read: nothing was proved."])

    def pages(self, *paths: str) -> None:
        """Serve, fetch these, and stop with SIGTERM."""
        words = [self._bin / "gateway", "serve"]
        environ = self._environ | {
            "GATEWAY_UPSTREAM_API_KEY": "sk-none",
            "GATEWAY_PORT": "0",
            "GATEWAY_LOG_FORMAT": "json",
        }
        environ["GATEWAY_UPSTREAM_URL"] = "http://127.0.0.1:9"
        with subprocess.Popen(words, cwd=self._cwd, env=environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            url = next((found[1] for line in process.stderr if (found := re.search(r'"url":\s*"([^"]+)"', line))), None)
            try:
                give_up([] if url else ["gateway serve does not serve."])
                for path in paths:
                    deadline = time.monotonic() + 20
                    while not self._answers(f"{url}{path}"):
                        give_up([f"{path} is not answered with 200."] if time.monotonic() > deadline else [])
                        time.sleep(0.1)
            finally:
                process.terminate()
                process.stderr.read()
        give_up([f"gateway serve ended with {process.returncode}."] if process.returncode else [])

    @staticmethod
    def _answers(url: str) -> bool:
        with suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200 and bool(answer.read())
        return False


def shipped_command() -> str:
    """Return what the manual has Python say, where ``config/`` stands in an installed wheel."""
    page = (ROOT / "gateway" / "manual" / "install.md").read_text("utf-8")
    (found,) = re.findall(r'^python3 -c "(.+_config.+)"$', page, re.MULTILINE)
    return str(found)


def main() -> None:
    """Go through all of it in a folder that goes away."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = built(folder)
        version_holds(wheel)
        there = Elsewhere(folder, wheel)
        there.is_kept_out()
        if wheel.name.split("-")[1] not in there.run("gateway", "--version"):
            sys.exit("gateway --version tells another version.")
        there.run("python", "-c", "import gateway.client, gateway.receiver")
        there.run("gateway", "config-example")
        kept = Path(there.run("python", "-c", shipped_command()).strip())
        ours = {path.relative_to(ROOT / "config") for path in (ROOT / "config").rglob("*.*") if path.is_file()}
        give_up([f"{path} is not in the wheel." for path in sorted(ours) if not (kept / path).is_file()])
        there.run("gateway", "check-config", GATEWAY_UPSTREAM_API_KEY="sk-none")
        told = there.run("gateway", "demo")
        give_up([] if "task.succeeded" in told else [f"gateway demo showed no webhook:\n{told}"])
        there.pages("/healthz", "/openapi.json", "/", "/manual", "/manual/security", "/manual/calls")
        say("installed in an empty environment: demo, commands and pages need nothing of the checkout")
        target = ROOT / "dist"
        target.mkdir(exist_ok=True)
        for made in (sdist, wheel):
            shutil.copy(made, target)
            say(f"{digest(made)}  dist/{made.name}")
    say(f"all of it holds, after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    with report_output():
        main()
