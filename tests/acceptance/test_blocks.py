"""Each block of README and the manual: which test runs it, or why none does; and those that nobody else runs."""

import asyncio
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.receiver import Succeeded, verify
from gateway.signature import Signer, parse_secrets
from gateway.store.sqlite.store import SqliteStore
from tests.acceptance.test_quick_start import environment
from tests.crash.process import SECRET
from tests.manual import MANUAL, README, ROOT
from tests.postgres import Database

HERE = "tests/acceptance/test_blocks.py"
QUICK_START, COMMANDS = "tests/acceptance/test_quick_start.py", "tests/acceptance/test_commands_page.py"
RECEIVERS, CLIENTS = "tests/acceptance/test_receivers_page.py", "tests/acceptance/test_generated_clients.py"
SDKS, RECIPES = "tests/acceptance/test_sdks.py", "tests/acceptance/test_recipes.py"
EVENTS = "tests/acceptance/test_operator_events.py"
PYTHON, MANIFESTS = "tests/acceptance/test_python_page.py", "tests/unit/test_manifests.py"
INSTALLS = "it installs from the network, which tests do without: `make` runs pip the same way in a fresh checkout"
ENGINE = "it needs root and an engine for containers: what it names is held by tests/unit/test_manifests.py"

BLOCKS = {
    ("README", "python3 -m venv .venv && . .venv/bin/activate"): INSTALLS,
    ("README", "gateway simulate --port 8081"): QUICK_START,
    ("README", "export GATEWAY_UPSTREAM_URL=http://127.0.0.1:8081"): QUICK_START,
    ("README", "gateway listen --port 9000"): QUICK_START,
    ("README", "gateway register sim-success-3000-cat http://127.0.0.1:9000/hooks --metadata"): QUICK_START,
    ("README", "✓ task.succeeded"): QUICK_START,
    ("README", "curl -s http://127.0.0.1:8080/v1/callbacks"): HERE,
    ("README", "from standardwebhooks import Webhook"): RECEIVERS,
    ("README", "from gateway.receiver import verify"): RECEIVERS,
    ("README", 'import { Webhook } from "standardwebhooks";'): RECEIVERS,
    ("api", "npm install openapi-fetch"): CLIENTS,
    ("api", "import createClient from"): CLIENTS,
    ("api", "pip install openapi-python-client"): CLIENTS,
    ("api", "from webhook_bridging_gateway_client import AuthenticatedClient"): CLIENTS,
    ("api", '{"taskId": "task_xxx"'): HERE,
    ("commands", ""): COMMANDS,
    ("configuration", "[clients.shop]"): HERE,
    ("configuration", "[[receivers]]"): "tests/unit/config/test_receivers_config.py",
    ("events", '{"type": "receiver.failing"'): EVENTS,
    ("events", '"""Operator events to Slack'): EVENTS,
    ("install", "pip install '.[ed25519]'"): INSTALLS,
    ("install", "make wheel"): INSTALLS,
    ("install", "export GATEWAY_UPSTREAM_API_KEY=sk-…"): HERE,
    ("install", "python3 -c"): "it is of an installed wheel: `make release-check` runs it",
    ("install", "python3 -m venv /opt/gateway"): "it needs root, and changes the machine: the unit is run by "
    "tests/acceptance/test_systemd.py",
    ("install", "docker build"): ENGINE,
    ("install", "services:"): MANIFESTS,
    ("install", "cp -r config/kubernetes deploy"): HERE,
    ("integrations", "import replicate"): SDKS,
    ("integrations", "from openai import OpenAI"): SDKS,
    ("integrations", "from runwayml import RunwayML"): SDKS,
    ("integrations", "import time"): SDKS,
    ("integrations", 'import Replicate from "replicate";'): SDKS,
    ("integrations", '{"model": "gpt-image-2-text-to-image"'): RECIPES,
    ("integrations", "JSON.parse($json.body.data.resultJson)"): RECIPES,
    ("integrations", 'import { wait } from "@trigger.dev/sdk";'): RECIPES,
    ("operating", "gateway copy-database"): HERE,
    ("operating", "rule_files:"): "tests/integration/alarms/test_alerts.py",
    ("operating", "python3 -c"): "tests/acceptance/test_vacuum.py",
    ("python", ""): PYTHON,
    ("receivers", "from gateway.receiver import SqliteIds"): RECEIVERS,
    ("replicas", "pip install '.[ed25519,postgres]'"): HERE,
    ("replicas", 'printf %s "$(gateway make-secret)"'): HERE,
    ("replicas", "mkdir secrets"): HERE,
    ("replicas", "scrape_configs:"): "tests/integration/alarms/test_alerts.py",
    ("telemetry", "export OTEL_EXPORTER_OTLP_ENDPOINT"): HERE,
    ("upstreams", "[upstreams.runway]"): HERE,
    ("upstreams", 'name = "piapi"'): "tests/unit/config/test_profile_format.py",
    ("webhook", '{"type": "task.succeeded"'): HERE,
    ("webhook", '{"code": 200'): HERE,
    ("webhook", "from gateway.receiver import Abandoned"): RECEIVERS,
    ("webhook", "printf '%s.%s.%s'"): RECEIVERS,
}
"""By page and how the block begins: the test that runs it, or why none does."""


def blocks() -> Iterator[tuple[str, str, str]]:
    """Yield page, language and text of each block."""
    for path in (README, *sorted(MANUAL.glob("*.md"))):
        for language, text in re.findall(
            r"^ *```(\w*)\n(.*?)^ *```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
        ):
            assert language, f"{path}: a block says what it is, or nobody asks who runs it: {text}"
            if language not in ("mermaid", "text"):  # a drawing
                yield path.stem, language, text


def block(page: str, begins: str) -> str:
    (text,) = (text for its, _, text in blocks() if its == page and text.strip().startswith(begins))
    return text


def test_each_block_is_run_by_a_test_or_says_why_not() -> None:
    """And nothing is said of one that is gone."""
    known = set()
    for page, _, text in blocks():
        found = [key for key in BLOCKS if key[0] == page and text.strip().startswith(key[1])]
        assert len(found) == 1, (page, text)
        known |= set(found)
    assert known == BLOCKS.keys()
    for name in {by for by in BLOCKS.values() if by.startswith("tests/")}:
        assert (ROOT / name).is_file(), name


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Run a block in a shell, with some of it replaced; the command `gateway` is this checkout's."""
    if shutil.which("bash") is None:
        pytest.skip("the machine has no bash")

    def run(script: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            ["bash", "--norc", "-eo", "pipefail", "-c", script],
            capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path, **environ), timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def without(script: str, *commands: str) -> str:
    """Leave out the lines with these commands: each must be there."""
    lines = script.splitlines()
    for command in commands:
        assert any(line.strip().startswith(command) for line in lines), command
    return "\n".join(line for line in lines if not line.strip().startswith(commands))


def test_the_settings_to_begin_with_can_be_used(shell: Any) -> None:
    """Those of one gateway, and those of each replica."""
    shell(without(block("install", "export GATEWAY_UPSTREAM_API_KEY").replace("sk-…", "sk-1"), "gateway serve"))
    replica = without(block("replicas", "pip install"), "pip install", "gateway serve")
    files = {"database-password": "word", "webhook-secret": SECRET}
    replica = "\n".join(
        [f"printf %s '{content}' > {name}; chmod 600 {name}" for name, content in files.items()]
        + [replica.replace("/run/secrets", '"$PWD"')]
    )
    shell(replica, GATEWAY_UPSTREAM_API_KEY="sk-1")


def test_what_is_exported_is_shown(shell: Any) -> None:
    """By check-config, with the variable that stands there."""
    done = shell(block("telemetry", "export OTEL_EXPORTER_OTLP_ENDPOINT"), GATEWAY_UPSTREAM_API_KEY="sk-1")
    assert re.search(r"^OTEL_\* +traces, metrics$", done.stdout, re.MULTILINE)


def test_the_secrets_of_replicas_are_made(shell: Any, tmp_path: Path) -> None:
    """With the commands that stand there, those that hand them to Kubernetes or compose aside."""
    shell(without(block("replicas", 'printf %s "$(gateway'), "kubectl"))
    shell(without(block("replicas", "mkdir secrets"), "sudo", "docker"))
    script = without(block("install", "cp -r config/kubernetes"), "kubectl")
    shell(script.replace("cp -r config", f"cp -r {ROOT}/config"))
    overlay = "deploy/overlays/production"
    assert (tmp_path / overlay / "upstream-api-key").read_text().startswith("sk-")
    for name in ("webhook-secret", "secrets/webhook-secret", f"{overlay}/webhook-secret"):
        assert re.fullmatch(r"whsec_[\w+/]+=*", (tmp_path / name).read_text().strip()), name
    for name in ("token", "secrets/token", "secrets/database-password", f"{overlay}/token"):
        assert re.fullmatch(r"gwt_[\w-]+", (tmp_path / name).read_text().strip()), name


@pytest.mark.parametrize(("page", "begins"), [("configuration", "[clients.shop]"), ("upstreams", "[upstreams.runway]")])
def test_what_stands_in_a_file_of_settings_can_be_used(shell: Any, tmp_path: Path, page: str, begins: str) -> None:
    """With secrets in the places of the dots, and the files that it names."""
    text = block(page, begins).replace("sha256:…", f"sha256:{hashlib.sha256(b'a' * 40).hexdigest()}")
    text = text.replace("Bearer …", "Bearer x")
    for path in set(re.findall(r'"(/run/secrets/[\w-]+)"', text)):
        file = tmp_path / Path(path).name
        file.write_text(SECRET)
        file.chmod(0o600)
        text = text.replace(path, str(file))
    if page == "configuration":
        text += '[upstreams.runway]\napi_key = "sk-2"\n'
    (tmp_path / "gateway.toml").write_text(text)
    (tmp_path / "gateway.toml").chmod(0o600)
    shell("gateway --config gateway.toml check-config", GATEWAY_UPSTREAM_API_KEY="sk-1")


async def test_a_database_is_copied(shell: Any, postgres: Database, tmp_path: Path) -> None:
    """From a file to a PostgreSQL, with the command that stands there."""
    store = SqliteStore(tmp_path / "gateway.db")
    await store.open()
    await store.close()
    script = block("operating", "gateway copy-database").strip()
    script = script.replace("sqlite:////data/gateway.db", f"sqlite:///{tmp_path}/gateway.db")
    done = await asyncio.to_thread(shell, script.replace("postgresql://gateway@db.example/gateway", postgres.url))
    assert "Copying 0 rows" in done.stdout


@pytest.mark.parametrize("begins", ['{"type": "task.succeeded"', '{"code": 200'], ids=["standard", "record"])
def test_a_webhook_that_is_shown_can_be_read(begins: str) -> None:
    """In both formats: a receiver finds in it what the page says."""
    body = block("webhook", begins).encode()
    event = verify(body, Signer(parse_secrets(SECRET)).headers("cb_1", round(time.time()), body), SECRET)
    assert isinstance(event, Succeeded)
    assert (event.task_id, event.result_urls) == ("task_xxx", ("https://cdn.example.com/result.png",))


@pytest.mark.parametrize("page", ["README", "api"])
async def test_a_registration_is_taken(world: Any, page: str) -> None:
    """The request that README sends with curl, and the one that the API's page shows."""
    async with world.gateway() as gateway:
        body = block("api", '{"taskId"').strip()
        script = block("README", "curl -s").replace("http://127.0.0.1:8080", gateway.url)
        if page == "api":
            body = body.replace("https://app.example.com", "http://127.0.0.1:9000")
            script = re.sub(r"-d '.*'", lambda _: f"-d '{body}'", script, flags=re.DOTALL)
        if shutil.which("curl") is None:
            pytest.skip("the machine has no curl")
        done = await asyncio.to_thread(
            subprocess.run, ["sh", "-ec", script], capture_output=True, text=True, timeout=60, check=False
        )
        assert '"taskId":"task_xxx"' in done.stdout, done
        assert await gateway.stop() == 0
