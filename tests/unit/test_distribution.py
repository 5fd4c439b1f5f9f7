"""What it is installed as: one name, which nobody else has, and no advice to install what is not published."""

import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from gateway import signature
from gateway.app import preflight
from gateway.otel import asked

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PLACES = (
    *("*.md", "*.toml", "Dockerfile", "Makefile", "LICENSE", ".ci/*"),
    *("gateway/**/*.py", "gateway/manual/*.md", "gateway/manual/receivers/*", "config/**/*.toml"),
)
TEXTS = [path for place in PLACES for path in sorted(ROOT.glob(place))]
PUBLISHED = {
    "openapi-python-client",
    "standardwebhooks",
    "cryptography",
    "asyncpg",
    "opentelemetry-exporter-otlp-proto-http",
    "uv",
}


def test_its_name() -> None:
    """The distribution, the command and the extras; the import is what the command names."""
    assert PROJECT["name"] == "webhook-bridging-gateway"
    assert PROJECT["scripts"] == {"gateway": "gateway.__main__:main"}
    assert PROJECT["optional-dependencies"].keys() == {"ed25519", "otel", "postgres"}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_installs_what_is_not_published(path: Path) -> None:
    """``pip install`` of the gateway is of a checkout or a built wheel: under its old name PyPI has another's."""
    text = path.read_text("utf-8")
    for line in re.sub(r" -r \S+", " .", text).splitlines():
        for what in re.findall(r"""pip .*?\binstall (?:-\S+ )*["']?([\w.$-]+)""", line):
            assert what in PUBLISHED or what.startswith(("$", ".", "dist")), line
    assert "webhook-gateway" not in text.replace("urn:webhook-gateway:", "").replace("(`webhook-gateway` there is", "")


@pytest.mark.parametrize(("extra", "module"), [("ed25519", signature), ("otel", asked), ("postgres", preflight)])
def test_what_is_missing_is_named_as_the_extra_has_it(extra: str, module: ModuleType) -> None:
    """The advice where the extra is not installed is of the versions that the extra brings."""
    (needed,) = PROJECT["optional-dependencies"][extra]
    assert f"pip install '{needed}'" in Path(str(module.__file__)).read_text("utf-8")


@pytest.mark.parametrize("package", ["cryptography", "asyncpg", "opentelemetry-sdk"])
def test_the_lock_has_the_extras(package: str) -> None:
    """An image or an environment that is made from the lock can sign with key pairs, export, and use PostgreSQL."""
    assert re.search(rf"^{package}==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
