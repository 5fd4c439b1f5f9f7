"""What is handed out: the sdist and the wheel, built twice, and what has to be in them.

Built of a copy of HEAD where there is git, else of the tree as it is (an unpacked sdist). The bytes follow from the
source alone: built again, and built from the sdist, the wheel is the same. Nothing is fetched.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

__all__ = ["build", "copy_of_head", "epoch", "faults", "unpacked", "wheel_names"]

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


def has_git() -> bool:
    return (ROOT / ".git").exists()


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def epoch() -> str:
    """Return the second that what is built is dated: HEAD's, or the one that hatchling takes where none is told."""
    return git("log", "-1", "--format=%ct") if has_git() else "1580601600"


def copy_of_head(folder: Path) -> Path:
    """Lay out what is committed, and nothing else; without git: the tree as it is."""
    if not has_git():
        return ROOT
    tar = folder.with_suffix(".tar")
    git("archive", f"--output={tar}", "HEAD")
    _extract(tar, folder)
    tar.unlink()
    return folder


def build(source: Path, target: Path, kind: str) -> Path:
    """Build an ``sdist`` or a ``wheel`` of a tree into a folder."""
    environ = os.environ | {"SOURCE_DATE_EPOCH": epoch()}
    words = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    done = subprocess.run(words, cwd=source, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        sys.exit(f"hatchling ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    (made,) = target.glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[kind])
    return made


def unpacked(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist; return its one folder."""
    _extract(sdist, folder)
    (top,) = folder.iterdir()
    return top


def _extract(tar: Path, folder: Path) -> None:
    with tarfile.open(tar) as archive:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.2 of Debian 12 has none yet
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)


def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name)


def faults(source: Path, sdist: Path, wheel: Path) -> list[str]:
    """Return what is missing, too much, or wrong in what was built of a tree."""
    wrong = []
    rubbish = ("__pycache__", ".pyc")
    wanted = {
        str(path.relative_to(source)).replace("config/", "gateway/_config/", 1)
        if folder == "config"
        else str(path.relative_to(source))
        for folder in ("gateway", "config")
        for path in (source / folder).rglob("*")
        if path.is_file() and not any(word in str(path) for word in rubbish)
    }
    names = wheel_names(wheel)
    info = {name for name in names if ".dist-info/" in name}
    wrong += [f"The wheel lacks {name}." for name in sorted(wanted - names)]
    wrong += [f"The wheel has {name}, which is not of the source." for name in sorted(names - info - wanted)]
    endings = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    wrong += [
        f"The wheel's .dist-info lacks {end}." for end in sorted(endings) if not any(n.endswith(end) for n in info)
    ]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"Makefile", "Dockerfile", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}
    needed |= {path.name for path in source.glob("requirements*.lock")}
    wrong += [f"The sdist lacks {name}." for name in sorted(needed - inside)]
    return wrong + _metadata_faults(wheel)


def _metadata_faults(wheel: Path) -> list[str]:
    """Return what an index would refuse of the wheel's metadata, or a reader miss in it."""
    try:
        read = Metadata.from_email(_metadata(wheel), validate=True)
    except ExceptionGroup as exc:
        return [f"METADATA: {one}" for one in exc.exceptions]
    wrong = []
    if read.description_content_type != "text/markdown" or not (read.description or "").startswith("# "):
        wrong.append("METADATA: README is not its description.")
    if (read.license_expression, read.license_files) != ("MIT", ["LICENSE"]):
        wrong.append("METADATA: the licence is not told.")
    if str(read.version) != wheel.name.split("-")[1]:
        wrong.append("METADATA: its version is not the file's.")
    return wrong
