"""The commands as people and scripts use them: real processes, their output and their exit codes."""

import asyncio
import hashlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.signature import Signer, parse_secrets
from tests.commandline import command, environment, run, start
from tests.manual import MANUAL

ROOT = Path(__file__).parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DEEP = f'{{"a": {"[" * 3_000}{"]" * 3_000}}}'


async def commands(*lines: tuple[str, ...], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run several, one after the other."""
    return [await command(*words, cwd=cwd) for words in lines]


def test_the_demo_ends_by_itself_with_all_three_webhooks(tmp_path: Path) -> None:
    """`gateway demo` shows a success, a failure and an abandoned task, each verified, and exits 0."""
    done = run("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for event in ("task.succeeded", "task.failed", "task.abandoned"):
        assert event in done.stdout
    assert done.stdout.count("✓ verified") == 3
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


async def test_the_client_commands(world: Any, tmp_path: Path) -> None:
    """register, list, show, cancel and redeliver speak to a running gateway; --json is the API's JSON."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        at = ("--url", gateway.url)
        hooks = f"{world.receiver.url}/hooks"
        registered = await command(
            *("register", "sim-success-1-cli", hooks, "--metadata", '\ufeff{"n": 1}', "--json", *at), cwd=tmp_path
        )
        assert registered.returncode == 0, registered.stderr
        callback = json.loads(registered.stdout)
        assert callback["metadata"] == {"n": 1}
        await world.becomes(client, callback["id"], "delivered")
        asked = (("list",), ("show", callback["id"]), ("show", callback["id"], "--json"))
        listed, shown, whole = await commands(*((*words, *at) for words in asked), cwd=tmp_path)
        assert callback["id"] in listed.stdout
        assert "delivered" in listed.stdout
        assert "204" in shown.stdout
        assert json.loads(whole.stdout)["attemptLog"]
        answers = asyncio.Event()

        async def answer(_: str) -> int:
            await answers.wait()
            return 204

        world.receiver.on_post = answer  # else it may be delivered before it is told of
        again = await command("redeliver", callback["id"], *at, cwd=tmp_path)
        assert "pending" in again.stdout
        answers.set()
        register = ("register", "sim-never-0-cli", hooks, "--format", "record", "--json")
        waiting = json.loads((await command(*register, *at, cwd=tmp_path)).stdout)
        assert (callback["format"], waiting["format"]) == ("standard", "record")
        cancelled = await command("cancel", waiting["id"], *at, cwd=tmp_path)
        assert "cancelled" in cancelled.stdout
        missing, refused, bad = await commands(
            ("show", "cb_none", *at),
            ("register", "task", "http://10.0.0.1/", *at),
            ("register", "task", hooks, "--metadata", "{", *at),
            cwd=tmp_path,
        )
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "cb_none" in missing.stderr
        assert refused.returncode == 1
        assert "GATEWAY_CALLBACK_ALLOW" in refused.stderr
        assert bad.returncode == 2
        assert await gateway.stop() == 0


def test_no_gateway_is_a_clear_message(tmp_path: Path) -> None:
    """Where nothing listens the command says so, and how to go on; its exit code is its own, for scripts that wait."""
    done = run("list", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 3
    assert "gateway serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, {"hello": 1}, "not a gateway's answer"),
        (200, {"object": "list", "data": [{"id": "x"}]}, "not a gateway's answer"),
        (200, ["cb_1"], "not a gateway's answer"),
        (
            200,
            {"id": 1, "callbackUrl": [], "data": [{"id": "x", "task": "\x1b"}], "nextCursor": 7},
            "not a gateway's answer",
        ),
        (401, {"detail": "Who are you?"}, "Who are you? Give the token with --token, or with GATEWAY_TOKEN for"),
        (403, {"detail": "\x1b[2Jno\x07"}, "\\x1b[2Jno\\x07"),
    ],
)
async def test_what_other_servers_answer(tmp_path: Path, status: int, answer: Any, expected: str) -> None:
    """A wrong --url is told from a gateway that refuses, and what was answered cannot steer the terminal."""

    async def server(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse(answer, status)(scope, receive, send)

    async with serve_asgi(server) as url:
        asked = (("list",), ("show", "cb_1"), ("show", "\udcff"), ("redeliver", "cb_1"))
        for done in await commands(*((*words, "--url", url) for words in asked), cwd=tmp_path):
            assert (done.returncode, done.stdout) == (1, "")
            (line,) = done.stderr.splitlines()
            assert expected in line


UNUSABLE = [
    (("list", "--url", "http://[::1"), "--url"),
    (("list", "--url", "foo"), "--url"),
    (("listen", "--secret", SECRET, "--answer", "600"), "--answer"),
    (("listen", "--secret", "whsec_c2hvcnQ="), "5 bytes"),
    (("list", "--token", "é"), "--token"),
    (("register", "t", "https://example.com/", "--metadata", '{"a": NaN}'), "NaN"),
    (("register", "t", "https://example.com/", "--metadata", '{"a": 1e400}'), "--metadata: holds a number"),
    (
        ("register", "t", "https://example.com/", "--metadata", '{"a": "\\ud83d"}'),
        "--metadata: a: holds half of",
    ),
    (("register", "t", "https://example.com/", "--metadata", DEEP), "may have at most 100 objects and arrays"),
    (("register", "t", "https://example.com/", "--metadata", '{"a": 1}, "b": 2'), "--metadata: not JSON: "),
    (("register", "t", "https://example.com/", "--metadata", "{"), "--metadata: not JSON: "),
    (("register", "t", "https://example.com/", "--metadata", "\udcff"), "--metadata: not JSON: "),
    (("register", "t", "https://example.com/", "--metadata", "[1]"), "--metadata: expected `object"),
    (("register", "t", "https://example.com/", "--metadata", "[" * 20_000), "--metadata"),
]


def test_words_that_cannot_be_used(tmp_path: Path) -> None:
    """What no request can carry is a message that names it, never a traceback."""
    told = [run(*words, cwd=tmp_path) for words, _ in UNUSABLE]
    for done, (words, expected) in zip(told, UNUSABLE, strict=True):
        assert done.returncode == 2, words
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_serving_without_a_key_names_the_variable_and_the_demo(tmp_path: Path) -> None:
    """A missing upstream key is a clear message."""
    done = run("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "GATEWAY_UPSTREAM_API_KEY" in done.stderr
    assert "make demo" in done.stderr


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    """Every wrong setting is named in one run, and no secret is shown."""
    done = run(
        "check-config",
        cwd=tmp_path,
        GATEWAY_PORT="80800",
        GATEWAY_POLL_MIN_S="soon",
        GATEWAY_WEBHOOK_SECRET="whsec_c2hvcnQ=",
        GATEWAY_CALLBACK_ALLOW="169.254.169.254",
        GATEWAY_TOKN="x",
    )
    assert done.returncode == 2
    for name in ("PORT", "POLL_MIN_S", "WEBHOOK_SECRET", "CALLBACK_ALLOW", "TOKN"):
        assert f"GATEWAY_{name}" in done.stderr
    assert "c2hvcnQ" not in done.stderr


def test_check_config_shows_the_settings_without_secrets(tmp_path: Path) -> None:
    """The settings in force are printed, a secret only as set."""
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[upstreams.kie]\napi_key = "canary"\nrate = "5/1"\n[upstreams.luma]\nurl = "http://127.0.0.1:1"\n'
    )
    tokens = {"GATEWAY_TOKEN": "canary-canary-canary", "GATEWAY_OPERATOR_TOKEN": "canary-canary"}
    done = run("--config", str(config), "check-config", cwd=tmp_path, GATEWAY_UPSTREAM="kie", **tokens)
    assert done.returncode == 0, done.stderr
    assert "GATEWAY_POLL_MAX_S" in done.stdout
    assert "canary" not in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["[upstreams.kie]", "kie", "https://api.kie.ai", "5/1", "key", "***", "default"] in lines
    assert ["[upstreams.luma]", "luma", "http://127.0.0.1:1", "no", "limit", "no", "key"] in lines
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.toml"]


def test_check_config_and_serve_refuse_the_same(tmp_path: Path) -> None:
    """One report with the same words, exit 2, no port opened and no file written."""
    config = tmp_path / "gateway.toml"
    config.write_text('[upstreams.kie]\n[upstreams.x]\nprofile = "none"\n')
    (tmp_path / "gateway.secret").write_text("whsec_c2hvcnQ=")
    environ = {"GATEWAY_CONFIG": str(config), "GATEWAY_PROFILES": str(tmp_path / "absent"), "GATEWAY_PORT": "x"}
    checked, served = (run(command, cwd=tmp_path, **environ) for command in ("check-config", "serve"))
    assert (checked.returncode, served.returncode) == (2, 2)
    assert checked.stderr == served.stderr
    for expected in ("GATEWAY_PORT", "GATEWAY_PROFILES: got ", "no profile none", "upstreams.kie]: no api_key"):
        assert expected in checked.stderr
    for expected in ("GATEWAY_UPSTREAM_API_KEY", "gateway.secret cannot be used: the secret has 5 bytes"):
        assert expected in checked.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.secret", "gateway.toml"]


def test_a_database_that_cannot_be_used_is_refused_before_the_port(tmp_path: Path) -> None:
    """In the one report of check-config and serve, exit 2; the port, which is taken, is not even tried."""
    database = tmp_path / "gateway.db"
    database.write_text("Dear diary, " * 1000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {"GATEWAY_PORT": str(taken.getsockname()[1]), "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
        checked, served = (run(command, cwd=tmp_path, **environ) for command in ("check-config", "serve"))
    assert (checked.returncode, served.returncode) == (2, 2)
    assert checked.stderr == served.stderr
    assert f"{database} is not an SQLite database; it was not touched." in served.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.db"]


async def test_check_config_beside_a_running_gateway(world: Any) -> None:
    """A database in use is no mistake, and a look leaves it alone: after a reload, too, another gateway is kept out."""
    async with world.gateway() as gateway:
        before = sorted(path.name for path in world.folder.iterdir())
        checked = await asyncio.to_thread(run, "check-config", cwd=world.folder, **world.environ)
        assert checked.returncode == 0, checked.stderr
        assert sorted(path.name for path in world.folder.iterdir()) == before
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.event("config.reloaded")
        second = await asyncio.to_thread(run, "serve", cwd=world.folder, **world.environ | {"GATEWAY_PORT": "0"})
        assert (second.returncode, "in use by another process" in second.stderr) == (1, True), second.stderr
        assert await gateway.stop() == 0


@pytest.mark.parametrize("named", ["option", "variable"])
async def test_a_gateway_that_is_named_gets_no_other_ones_token(tmp_path: Path, named: str) -> None:
    """With GATEWAY_URL the token is the environment's, not the file's; with --url for another the command line's."""
    sent: list[str | None] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        sent.append(Headers(scope=scope).get("authorization"))
        await JSONResponse({"data": [], "nextCursor": None})(scope, receive, send)

    config = tmp_path / "gateway.toml"
    config.write_text('token = "the-servers-own"\n')
    (tmp_path / "token").write_text("from-a-file")
    async with serve_asgi(server) as url:
        words = ("list", "--url", url) if named == "option" else ("list",)
        own = {} if named == "option" else {"GATEWAY_URL": url}
        named_file = {"GATEWAY_CONFIG": str(config)}
        lines: list[tuple[tuple[str, ...], dict[str, str]]] = [
            (words, named_file),
            (words, {"GATEWAY_CONFIG": str(tmp_path / "absent")}),
            (words, named_file | {"GATEWAY_TOKEN": "mine"}),
            (words, named_file | {"GATEWAY_TOKEN_FILE": str(tmp_path / "token")}),
            ((*words, "--token", "other"), named_file | {"GATEWAY_TOKEN": "mine"}),
            (("--config", str(config), *words), {}),
        ]
        for done in [await command(*line, cwd=tmp_path, **own | environ) for line, environ in lines]:
            assert done.returncode == 0, done.stderr
        own_tokens = [None, None] if named == "option" else ["Bearer mine", "Bearer from-a-file"]
        assert sent == [None, None, *own_tokens, "Bearer other", None]
        # Where the file itself says where the gateway is, its token goes there.
        config.write_text(f'url = "{url}"\ntoken = "the-servers-own"\n')
        done = await asyncio.to_thread(run, "list", cwd=tmp_path, GATEWAY_CONFIG=str(config))
        assert (done.returncode, sent[-1]) == (0, "Bearer the-servers-own"), done.stderr


async def test_the_operator_lists_one_clients(world: Any, tmp_path: Path) -> None:
    """`list --client` is for the operator, as in the API; a client's own token is refused with the reason."""
    config = world.folder / "gateway.toml"
    config.write_text(f'[clients.shop]\ntoken_hash = "sha256:{hashlib.sha256(b"shops").hexdigest()}"\n')
    tokens = {"GATEWAY_TOKEN": "own", "GATEWAY_OPERATOR_TOKEN": "the-operators"}
    async with world.gateway(GATEWAY_CONFIG=str(config), **tokens) as gateway:
        for token in ("own", "shops"):
            async with httpx.AsyncClient(
                base_url=gateway.url, headers={"authorization": f"Bearer {token}"}, trust_env=False
            ) as client:
                await world.register(client, f"sim-never-0-{token}")
        words = ("list", "--url", gateway.url, "--json", "--token")
        listed = await command(*words, "the-operators", "--client", "shop", cwd=tmp_path)
        assert [c["client"] for c in json.loads(listed.stdout)["data"]] == ["shop"], listed.stderr
        assert len(json.loads((await command(*words, "the-operators", cwd=tmp_path)).stdout)["data"]) == 2
        refused = await command(*words, "own", "--client", "shop", cwd=tmp_path)
        assert (refused.returncode, "operator" in refused.stderr) == (1, True), refused.stderr
        assert await gateway.stop() == 0


async def test_client_commands_need_none_of_the_gateways_settings(world: Any, tmp_path: Path) -> None:
    """Mistakes in what only the gateway needs do not stop them; GATEWAY_URL and GATEWAY_TOKEN are theirs."""
    config = tmp_path / "gateway.toml"
    hashed = hashlib.sha256(b"shops-token").hexdigest()
    config.write_text(f'poll_min_s = "soon"\n[upstreams.X]\n[clients.shop]\ntoken_hash = "sha256:{hashed}"\n')
    world_config = world.folder / "world.toml"
    world_config.write_text(f'[clients.shop]\ntoken_hash = "sha256:{hashed}"\n')
    environ = {
        "GATEWAY_UPSTREAM_RATE": "fast",
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_REDIS_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_TOKEN": "shops-token",
        "GATEWAY_TOKEN_FILE": "/run/secrets/absent",
    }
    own = {"GATEWAY_CONFIG": str(world_config), "GATEWAY_TOKEN": "own-token"}
    async with world.gateway(**own) as gateway:
        listed = await asyncio.to_thread(run, "list", cwd=tmp_path, GATEWAY_URL=gateway.url, **environ)
        assert listed.returncode == 0, listed.stderr
        refused = await asyncio.to_thread(
            run, "list", "--token", "nobodys", cwd=tmp_path, GATEWAY_URL=gateway.url, **environ
        )
        assert refused.returncode == 1
        config.write_text(f'port = {gateway.url.rpartition(":")[2]}\npoll_min_s = "soon"\n')
        found = await asyncio.to_thread(run, "list", cwd=tmp_path, **environ)
        assert found.returncode == 0, found.stderr
        assert await gateway.stop() == 0


def test_a_saved_webhook_is_verified_whatever_else_is_wrong(tmp_path: Path) -> None:
    """`verify` needs the secret alone, here the one beside the database; so does `listen`."""
    headers = Signer(parse_secrets(SECRET)).headers("cb_1", 1_700_000_000, b"{}")
    (tmp_path / "body.json").write_bytes(b"{}")
    (tmp_path / "headers.json").write_text(json.dumps(headers))
    (tmp_path / "own.secret").write_text(SECRET)
    words = ("verify", "body.json", "headers.json", "--tolerance-seconds", "1e12")
    environ = {"GATEWAY_POLL_MIN_S": "soon", "GATEWAY_TOKN": "x", "GATEWAY_DATABASE_URL": "sqlite:///own.db"}
    done = run(*words, cwd=tmp_path, **environ)
    assert done.returncode == 0, done.stderr


async def test_register_names_a_model(world: Any, tmp_path: Path) -> None:
    """--model is the request's own, and is refused as the API refuses it."""
    silent = world.gateway(GATEWAY_UPSTREAM_URL="http://127.0.0.1:9")  # else its own word would count
    async with silent as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        words = ("register", "sim-never-0-model", f"{world.receiver.url}/hooks", "--url", gateway.url, "--model")
        done = await command(*words, "m é", "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["state"] == "waiting", done.stderr
        read = await client.get("/api/v1/jobs/recordInfo?taskId=sim-never-0-model")
        assert read.json()["data"]["model"] == "m é"
        refused = await command(*words, "m" * 256, cwd=tmp_path)
        assert (refused.returncode, "model: expected `str`" in refused.stderr) == (1, True), refused.stderr
        assert await gateway.stop() == 0


async def test_register_names_an_upstream(world: Any, tmp_path: Path) -> None:
    """--upstream is the request's own; one that is not configured is refused with those that are."""
    config = world.folder / "gateway.toml"
    config.write_text(f'[upstreams.second]\nprofile = "kie"\nurl = "{world.upstream_url}"\n')
    async with world.gateway(GATEWAY_CONFIG=str(config)) as gateway:
        words = ("register", "sim-never-0-up", f"{world.receiver.url}/hooks", "--url", gateway.url, "--upstream")
        done = await command(*words, "second", "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["upstream"] == "second", done.stderr
        refused = await command(*words, "third", cwd=tmp_path)
        assert (refused.returncode, "there is: aigptimage, second" in refused.stderr) == (1, True), refused.stderr
        assert await gateway.stop() == 0


def test_a_taken_port_is_a_clear_message(tmp_path: Path) -> None:
    """Where another process listens already the gateway says so and exits 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", cwd=tmp_path, GATEWAY_PORT=port, GATEWAY_UPSTREAM_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "GATEWAY_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1"])
def test_a_host_that_is_none_of_ours_is_a_clear_message(host: str, tmp_path: Path) -> None:
    """A name that cannot be one, another machine's address: the message says what to set, without a traceback."""
    key = {"GATEWAY_UPSTREAM_API_KEY": "sk-test", "GATEWAY_TOKEN": "t" * 40}
    for words, advice in (
        (("listen", "--host", host, "--secret", SECRET), "Choose another --host or --port."),
        (("serve",), "Set GATEWAY_HOST or GATEWAY_PORT to another."),
    ):
        done = run(*words, cwd=tmp_path, GATEWAY_HOST=host, **key)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Cannot listen on {host}:")
        assert line.endswith(advice)


async def test_a_second_gateway_on_the_same_database_is_refused(world: Any) -> None:
    """Two processes never share a database file: the second one says so and exits 1."""
    async with world.gateway() as gateway:
        environ = world.environ | {"GATEWAY_PORT": "0"}
        second = await asyncio.to_thread(run, "serve", cwd=world.folder, **environ)
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
        assert await gateway.stop() == 0


async def test_the_secret_made_on_the_first_start_signs_and_verifies(world: Any, tmp_path: Path) -> None:
    """With no secret configured one is kept beside the database, for its owner's eyes only; it survives restarts."""
    del world.environ["GATEWAY_WEBHOOK_SECRET"]
    secrets = set()
    for _ in range(2):
        async with world.gateway() as gateway:
            assert await gateway.stop() == 0
        path = world.folder / "gateway.secret"
        assert path.stat().st_mode & 0o777 == 0o600
        secrets.add(path.read_text())
    (secret,) = secrets
    assert secret.startswith("whsec_")


def test_verify_takes_a_saved_webhook(tmp_path: Path) -> None:
    """`gateway verify` exits 0 for a genuine webhook, 1 for a changed one, 2 with no secret to be had."""
    body = b'{"type":"task.succeeded"}'
    headers = Signer(parse_secrets(SECRET)).headers("cb_1", 1_700_000_000, body)
    (tmp_path / "body.json").write_bytes(body)
    (tmp_path / "headers.txt").write_text("".join(f"{name}: {value}\n" for name, value in headers.items()))
    words = ("verify", "body.json", "headers.txt", "--secret", SECRET)
    old = run(*words, cwd=tmp_path)
    assert old.returncode == 1, "it is older than the tolerance"
    genuine = run(*words, "--tolerance-seconds", "1e12", cwd=tmp_path)
    assert (genuine.returncode, "cb_1" in genuine.stdout) == (0, True), genuine.stderr
    (tmp_path / "body.json").write_bytes(body + b" ")
    assert run(*words, "--tolerance-seconds", "1e12", cwd=tmp_path).returncode == 1
    assert run("verify", "body.json", "headers.txt", cwd=tmp_path).returncode == 2


def test_make_secret_makes_one_that_can_be_used(tmp_path: Path) -> None:
    """Each call prints another secret that the gateway accepts."""
    first, second = (run("make-secret", cwd=tmp_path).stdout.strip() for _ in range(2))
    assert first != second
    assert parse_secrets(f"{first} {second}")


def test_make_secret_makes_a_key_pair(tmp_path: Path) -> None:
    """With --ed25519 the first line signs and the second verifies; the gateway refuses to sign with the second."""
    signing, public = run("make-secret", "--ed25519", cwd=tmp_path).stdout.split()
    assert (signing[:5], public[:5]) == ("whsk_", "whpk_")
    headers = Signer(parse_secrets(signing)).headers("cb_1", 1_700_000_000, b"{}")
    (tmp_path / "body.json").write_bytes(b"{}")
    (tmp_path / "headers.json").write_text(json.dumps(headers))
    words = ("verify", "body.json", "headers.json", "--tolerance-seconds", "1e12", "--secret")
    assert run(*words, public, cwd=tmp_path).returncode == 0
    assert run(*words, SECRET, cwd=tmp_path).returncode == 1
    refused = run("check-config", cwd=tmp_path, GATEWAY_WEBHOOK_SECRET=public)
    assert refused.returncode == 2
    assert "whpk_" in refused.stderr
    good = {"GATEWAY_WEBHOOK_SECRET": f"{SECRET} {signing}", "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    assert run("check-config", cwd=tmp_path, **good).returncode == 0


def test_make_secret_makes_a_token_with_its_hash(tmp_path: Path) -> None:
    """The token stands alone on the first line, and the second one is what goes into the client's table."""
    token, line = run("make-secret", "--token", cwd=tmp_path).stdout.splitlines()
    config = tmp_path / "gateway.toml"
    config.write_text(f"[clients.shop]\n{line}\n")
    environ = {"GATEWAY_CONFIG": str(config), "GATEWAY_HOST": "0.0.0.0", "GATEWAY_UPSTREAM_API_KEY": "k"}
    checked = run("check-config", cwd=tmp_path, **environ)
    assert (checked.returncode, "[clients.shop]" in checked.stdout) == (0, True), checked.stderr
    assert token not in line
    assert line == f'token_hash = "sha256:{hashlib.sha256(token.encode()).hexdigest()}"'


async def test_listen_verifies_and_prints(tmp_path: Path) -> None:
    """`gateway listen` prints each webhook with its verdict and answers 204 or 401; a web page's is none."""
    process = await start("listen", "--port", "0", "--secret", SECRET, cwd=tmp_path)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
            url = next(word for word in line.split() if word.startswith("http://")).rstrip(";")
            body = b'{"type":"task.failed","data":{"taskId":"t1","state":"fail"}}'
            headers = Signer(parse_secrets(SECRET)).headers("cb_9", SystemClock().now() // 1000, body)
            async with httpx.AsyncClient() as client:
                assert (await client.post(url, content=body, headers=headers)).status_code == 204
                assert (await client.post(url, content=b"{}", headers=headers)).status_code == 401
                page = await client.post(url, content=b"of-a-page", headers={"origin": "http://evil.test"})
                assert page.status_code == 403
            process.terminate()
            printed = (await process.stdout.read()).decode()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "task.failed" in printed
    assert "✓ verified" in printed
    assert printed.count("not verified") == 1


async def test_listen_answers_as_told_and_the_gateway_tries_again(world: Any, tmp_path: Path) -> None:
    """With --answer 503,204 the first attempt fails and the second delivers; the attempt log says so."""
    process = await start("listen", "--port", "0", "--secret", SECRET, "--answer", "503,204", cwd=tmp_path)
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        url = next(word for word in line.split() if word.startswith("http://")).rstrip(";")
        async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
            answer = await client.post("/v1/callbacks", json={"taskId": "sim-success-0-answer", "callbackUrl": url})
            callback_id = answer.json()["id"]
            await world.becomes(client, callback_id, "delivered")
            attempts = (await client.get(f"/v1/callbacks/{callback_id}/attempts")).json()["data"]
            assert [(a["statusCode"], a["result"]) for a in attempts] == [(503, "retry"), (204, "delivered")]
            assert await gateway.stop() == 0
        process.terminate()
        printed = (await process.stdout.read()).decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert "503" in printed
    assert "duplicate" in printed


def test_help_says_what_exit_codes_mean(tmp_path: Path) -> None:
    """The codes stand in the help, a line each."""
    shown = run("--help", cwd=tmp_path).stdout
    assert [line.strip()[0] for line in shown.partition("Exit codes:")[2].splitlines() if line.strip()] == list("0123")


def test_an_installed_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    """The wheel carries profiles, defaults and the manual: it finds them in a folder that is not the checkout."""
    pytest.importorskip("hatchling", reason="the build backend is installed by `make test`")
    built = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--no-index", "--wheel-dir", str(tmp_path), str(ROOT)),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("webhook_bridging_gateway-*.whl")
    unpacked = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(unpacked)], check=True, timeout=20)
    found = subprocess.run(
        [sys.executable, "-c", "from gateway.config import profilefile as p; print(p.__file__); print(p.config_dir())"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(unpacked)),
        timeout=20,
        check=True,
    )
    module, folder = found.stdout.splitlines()
    assert module.startswith(str(unpacked))
    assert (Path(folder) / "upstreams" / "aigptimage.toml").is_file()
    assert folder.startswith(str(unpacked))
    manual = {path.name for path in (unpacked / "gateway" / "manual").iterdir()}
    assert manual == {path.name for path in MANUAL.iterdir()}
