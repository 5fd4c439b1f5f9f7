"""What ``kubectl kustomize`` makes of ``config/kubernetes/``, kept in ``tests/fixtures/kubernetes/``.

Kept, so that it is held against the gateway on machines without kubectl too: each file names the hash of what it was
made of, and where kubectl is it is made anew and compared. ``make reference`` writes it. Called by the tests.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.manual import ROOT

__all__ = ["FOLDERS", "KUBERNETES", "SECRETS", "cannot", "kept", "made", "made_of", "source"]

KUBERNETES = ROOT / "config" / "kubernetes"
KEPT = ROOT / "tests" / "fixtures" / "kubernetes"
FOLDERS = ("base", "overlays/production", "overlays/sidecar")
SECRETS = ("token", "upstream-api-key", "webhook-secret")
"""Files that stand beside the production overlay, and in no repository."""
SMALLEST = "5.0"
"""Version of Kustomize, as kubectl has it from 1.27 on."""


def _path(folder: str) -> Path:
    return KEPT / f"{Path(folder).name}.yaml"


def kept(folder: str) -> str:
    """Return what is kept of a folder."""
    return _path(folder).read_text("utf-8")


def made_of(text: str) -> str:
    """Return of which hash a kept text says that it was made."""
    return text.partition("\n")[0].removeprefix("# Made by `make reference` of ")


def source() -> str:
    """Return the hash of all that the folders are made of."""
    whole = hashlib.sha256()
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        whole.update(f"{path.relative_to(KUBERNETES)}\n{path.read_text('utf-8')}\0".encode())
    return whole.hexdigest()


def cannot() -> str | None:
    """Return why this machine cannot make them; None where it can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    version = json.loads(_run("kubectl", "version", "--client", "--output=json"))["kustomizeVersion"].removeprefix("v")
    if tuple(map(int, version.split(".")[:2])) < tuple(map(int, SMALLEST.split("."))):
        return f"kubectl has Kustomize {version}, and {SMALLEST} is needed"
    return None


def made() -> dict[str, str]:
    """Return what kubectl makes of each folder, the secrets' files put beside the one that asks for them."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "kubernetes"
        shutil.copytree(KUBERNETES, copy)
        for secret in SECRETS:
            (copy / "overlays" / "production" / secret).write_text("x", "utf-8")
        return {folder: _run("kubectl", "kustomize", copy / folder) for folder in FOLDERS}


def _run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> int:
    """Write them, where they are not of these files."""
    if all(_path(folder).exists() and made_of(kept(folder)) == source() for folder in FOLDERS):
        return 0
    if (why := cannot()) is not None:
        print(f"{KEPT.relative_to(ROOT)} is of other files than config/kubernetes/, and {why}.", file=sys.stderr)
        return 1
    KEPT.mkdir(exist_ok=True)
    for folder, text in made().items():
        _path(folder).write_text(f"# Made by `make reference` of {source()}\n{text}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
