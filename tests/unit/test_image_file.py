"""What the image is made from, says and sets, as far as that can be read; ``tests/image`` builds and runs it."""

import re
import subprocess
from pathlib import Path

from gateway import __version__
from gateway.config.load import load
from tests.manual import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
CODE = re.sub(r"^#.*", "", DOCKERFILE, flags=re.MULTILINE)
REGISTRY_IMAGE = r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}"


def test_the_base_is_one_and_the_same() -> None:
    """By its digest: a tag means another image tomorrow. Both stages stand on it, and have one interpreter."""
    assert re.search(rf"^ARG BASE={REGISTRY_IMAGE}$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", CODE, re.MULTILINE) == ["${BASE}"] * 2


def test_what_is_installed_is_pinned() -> None:
    """Each package by hashes, and what is compiled by the source's hash: a time would make two builds two images."""
    installs = re.findall(r"pip (?:--python \S+ )?install (.*?) *(?:\\?$|&&)", CODE, re.MULTILINE)
    assert len(installs) == 3
    assert all("--require-hashes -r requirements" in one or "--no-deps dist/*.whl" in one for one in installs)
    assert "--invalidation-mode unchecked-hash" in CODE
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", CODE, re.MULTILINE) for name in line.split()}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied


def test_make_says_of_which_commit() -> None:
    """With the digest of the base, and the commit's time in place of the clock's."""
    done = subprocess.run(
        ["make", "--dry-run", "image", "BASE=base:1@sha256:ab"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for word in ("base.name=base:1 ", "base.digest=sha256:ab ", "image.revision=", "image.created=", "--timestamp"):
        assert word in done.stdout
    assert "git archive HEAD" in done.stdout


def test_the_image_decides_nothing_over_its_user(tmp_path: Path) -> None:
    """A variable would win over a mounted TOML file: the image sets defaults only."""
    given = dict(re.findall(r"\b(GATEWAY_\w+)=(\S+)", CODE))
    assert given == {"GATEWAY_HOST_DEFAULT": "0.0.0.0", "GATEWAY_DATABASE_URL_DEFAULT": "sqlite:////data/gateway.db"}
    path = tmp_path / "gateway.toml"
    path.write_text('host = "10.0.0.1"\ndatabase_url = "sqlite:////elsewhere.db"\ntoken = "t"', "utf-8")
    settings = load(given, path)
    assert (settings.host, settings.database_url) == ("10.0.0.1", "sqlite:////elsewhere.db")


def test_the_image_says_what_it_is() -> None:
    """By the labels of the Open Container Initiative; the version is the package's."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="(.*?)"', DOCKERFILE))
    assert labels.keys() >= {"title", "description", "version", "licenses"}
    assert (labels["title"], labels["version"], labels["licenses"]) == ("webhook-bridging-gateway", __version__, "MIT")
