"""The image, built for real of HEAD and run: the same bytes twice, no right that it does not need, a clean end."""

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from gateway import __version__
from tests.containers import BASE, WITH_AN_ENGINE, Container, Engine, make_base

pytestmark = WITH_AN_ENGINE

IMAGE, AGAIN = "gateway-under-test", ("gateway-again", "gateway-once-more")
LIMIT_S = 30
NOT_COMPILED = """
import os, sys, gateway.cli.commands, gateway.serve.process
import gateway.otel.exporting, gateway.store.sqlite.store, gateway.store.postgres.store
cached = {name: getattr(module, "__cached__", None) for name, module in sys.modules.items()}
print(*sorted(name for name, path in cached.items() if path and not os.path.exists(path)))
"""
SERVES = {
    "GATEWAY_TOKEN": "tok",
    "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:8081",
    "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
    "GATEWAY_URL": "http://127.0.0.1:8080",
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("containers"))
    engine.add_base(make_base())
    engine.build(IMAGE, "docker")
    yield engine
    engine.podman("rmi", "--all", "--force")


@pytest.fixture
def served(engine: Engine) -> Iterator[Container]:
    with engine.container(IMAGE, **SERVES) as container:
        eventually(lambda: container.run("gateway", "health", check=False).returncode == 0, container)
        yield container


def eventually(holds: Callable[[], bool], container: Container) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, container.log()
        time.sleep(0.1)


def test_the_same_commit_gives_the_same_image(engine: Engine) -> None:
    """To the last byte, whenever it is built; in Docker's form, which names each build, with the same layers."""
    for name in AGAIN:
        engine.build(name, "oci")
    first, second = map(engine.image, AGAIN)
    assert (first["Id"], first["Digest"]) == (second["Id"], second["Digest"])
    docker = engine.image(IMAGE)
    assert docker["RootFS"] == first["RootFS"]
    assert (docker["Config"]["User"], docker["Config"]["Env"]) == (first["Config"]["User"], first["Config"]["Env"])


def test_it_says_what_it_is(engine: Engine) -> None:
    """Who finds it somewhere finds out which commit it is of, and on which base it stands."""
    told = {name.rpartition(".")[2]: value for name, value in engine.image(IMAGE)["Labels"].items()}
    assert (told["title"], told["version"], told["licenses"]) == ("webhook-bridging-gateway", __version__, "MIT")
    assert re.fullmatch(r"[0-9a-f]{40}", told["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["created"])
    assert told["name"] == BASE


def test_its_health_is_asked_as_it_says(engine: Engine, served: Container) -> None:
    """The command that stands in the image, in the container: 0 while it is well, 1 where none answers."""
    assert served.run(*engine.health_command(IMAGE), check=False).returncode == 0
    done = engine.once(IMAGE, "health")
    assert (done.returncode, "No gateway answers" in done.stderr) == (1, True)


def test_it_has_no_right_that_it_does_not_need(served: Container) -> None:
    """A user without a name, who can write nothing but the data; and there is no pip to bring anything."""
    assert served.run("id", "-u").stdout.strip() == served.run("id", "-g").stdout.strip() == "65532"
    for folder in ("/", "/opt/gateway", "/etc"):
        assert "Read-only file system" in served.run("touch", f"{folder}/x", check=False).stderr
    modes = served.run("find", "/data", "-type", "f", "-printf", "%m %U %f\n").stdout.split("\n")
    assert {"600 65532 gateway.db", "600 65532 gateway.secret"} <= set(modes)
    assert "No module named pip" in served.run("python", "-m", "pip", check=False).stderr
    assert served.run("find", "/opt/gateway", "-writable", "-not", "-type", "l").stdout == ""


def test_nothing_is_compiled_at_a_start(served: Container) -> None:
    """On a root that is read only what is not compiled is compiled at every start, which takes a second."""
    assert served.run("python", "-c", NOT_COMPILED).stdout.split() == []


def test_every_address_needs_a_token(engine: Engine) -> None:
    """The image listens on all of them; without a token its start is refused, and says what to set."""
    done = engine.once(IMAGE)
    assert done.returncode == 2
    assert "GATEWAY_TOKEN" in done.stderr


def test_it_delivers_and_ends_when_it_is_told_to(served: Container) -> None:
    """A webhook goes its whole way in the container; the first process hears SIGTERM, drains, and exits with 0."""
    served.begin("gateway", "simulate", "--port", "8081")
    served.begin("gateway", "listen", "--port", "9000")
    words = ("gateway", "register", "sim-success-500-cat", "http://127.0.0.1:9000/hooks")
    callback = json.loads(served.run(*words, "--json").stdout)["id"]
    eventually(lambda: '"delivered"' in served.run("gateway", "show", callback, "--json").stdout, served)
    assert served.run("cat", "/proc/1/cmdline").stdout.split("\0")[1:3] == ["/opt/gateway/bin/gateway", "serve"]
    assert served.stop() == 0
    events = [json.loads(line)["event"] for line in served.log().splitlines()]
    assert events[-2:] == ["gateway.draining", "gateway.stopped"]
