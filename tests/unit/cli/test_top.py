"""What `gateway top` makes of metrics and callbacks, and how it fits the terminal."""

import json
from typing import Any, cast

import pytest

from gateway.cli import top
from gateway.cli.client import RemoteGateway, find
from gateway.cli.figures import Figures, Scrape, figures
from gateway.cli.topview import lines
from gateway.core.errors import ConfigError
from gateway.core.telemetry import Metrics
from gateway.core.terminal import display_width

NOW = 1_790_000_000_000


def scrape(at_s: float, **counts: float) -> Scrape:
    """Return what a gateway's own metrics say that has done so much."""
    metrics = Metrics()
    metrics.ready.set(1)
    metrics.pending.set(counts.get("pending", 0))
    metrics.oldest_due_seconds.set(75)
    metrics.attempts.labels("delivered").inc(counts.get("delivered", 0))
    metrics.attempts.labels("retry").inc(1)
    for _ in range(int(counts.get("delivered", 0))):
        metrics.attempt_seconds.observe(0.02)
    for name in ("aigptimage", "kie"):
        metrics.waiting.labels(name).set(1200)
        metrics.polls.labels(name, "running").inc(counts.get("polls", 0))
        metrics.budget_used.labels(name, "query").set(0.8)
        metrics.leading.labels(name).set(name == "aigptimage")
    metrics.upstream_refused.labels("kie").set(1)
    return Scrape.of(at_s, b"".join(metrics.render()).decode())


def callback(n: int, **members: Any) -> dict[str, Any]:
    return {
        "callbackUrl": f"https://r-{n % 2}.example.com/hooks", "attempts": n, "lastError": f"error {n}",
        "nextAttemptAt": "2026-09-21T14:13:25.000Z", **members,
    }  # fmt: skip


def made(owed: Any = (), unknown: str | None = None, reasons: Any = ()) -> Figures:
    before, now = scrape(10, delivered=5, polls=5), scrape(12, delivered=25, polls=8, pending=3)
    return figures(before, now, reasons, owed, unknown)


def test_the_figures() -> None:
    """Gauges as they are, counters as what they gained in a second, histograms as the mean since the last look."""
    found = made()
    assert (found.ready, found.owed, found.oldest_due_s) == (True, 3, 75)
    assert (found.delivered_per_s, found.retried_per_s) == (10, 0)
    assert found.attempt_s == pytest.approx(0.02)
    assert found.lag_s is None
    first, second = found.upstreams
    assert (first.name, first.watched, first.polls_per_s, first.budget_used, first.wrong) == (
        "aigptimage",
        1200,
        1.5,
        0.8,
        [],
    )
    assert (second.wrong, second.polled_here, first.polled_here) == (["refuses the key"], False, True)


def test_another_process_began_anew() -> None:
    """Its counters are smaller, which is no negative rate; nor is a first look one of its own."""
    before, now = scrape(10, delivered=50), scrape(12, delivered=1)
    assert figures(before, now, [], [], None).delivered_per_s == 0
    assert figures(now, now, [], [], None).delivered_per_s == 0


def test_receivers_in_trouble() -> None:
    """Those whose webhooks failed and are owed, the most first."""
    owed = [callback(n) for n in (1, 2, 3, 5)] + [callback(8, attempts=0, lastError=None), callback(2, lastError=None)]
    (worse, better) = made(owed).receivers
    assert (worse.receiver, worse.owed, worse.attempts, worse.last_error) == (
        "https://r-1.example.com",
        3,
        5,
        "error 1",
    )
    assert (better.receiver, better.owed) == ("https://r-0.example.com", 1)


@pytest.mark.parametrize("width", [20, 40, 80, 200, None])
def test_no_line_is_wider_than_the_terminal(width: int | None) -> None:
    """And nothing that a receiver or an upstream wrote is acted on."""
    owed = [callback(1, lastError="\x1b[2J" + "界" * 100, callbackUrl="https://\x1b]0;x\x07.example.com/")]
    shown = lines(made(owed, reasons=["the upstream kie \x1brefuses the key"]), now=NOW, width=width)
    assert all(line.isprintable() for line in shown)
    assert width is None or max(map(display_width, shown)) <= width
    assert "ready" in shown[0]


def test_what_it_says() -> None:
    """In words that the manual has."""
    text = "\n".join(lines(made([callback(1)]), now=NOW, width=None))
    for expected in (
        "webhooks  3 owed, the oldest due for 75 s, 0 in flight, 0 dead",
        "10/s delivered, 0.0/s failed, 0.0/s dead, 20 ms each",
        "tasks     2,400 watched",
        "████████░░ 80%",
        "refuses the key, another replica polls it",
        "https://r-1.example.com",
        "error 1",
    ):
        assert expected in text
    assert "No receiver is in trouble." in "\n".join(lines(made(), now=NOW, width=None))
    assert "nothing can be told: Send a token" in "\n".join(lines(made(unknown="Send a token"), now=NOW, width=None))


@pytest.mark.parametrize("as_json", [False, True])
def test_another_servers_answers_end_in_figures_that_cannot_steer_the_terminal(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers that are none are left out, and control characters beyond ASCII are escaped, in JSON as well."""

    class Other:
        url = "http://127.0.0.1:9"

        def metrics(self) -> str:
            return "gateway_ready NaN\ngateway_callbacks_pending +Inf\nprocess_resident_memory_bytes NaN\n"

        def reasons(self) -> list[str]:
            return ["\x9b2J"]

        def list_callbacks(self, **query: Any) -> dict[str, Any]:
            return {"data": []}

    monkeypatch.setattr(top, "_ONCE_S", 0.0)
    top.run(cast(RemoteGateway, Other()), 1.0, once=True, as_json=as_json)
    shown = capsys.readouterr().out
    assert "\x9b" not in shown
    if as_json:
        assert (json.loads(shown)["owed"], json.loads(shown)["reasons"]) == (0, ["\x9b2J"])


def test_a_token_of_the_environment_counts_beside_a_file_for_the_gateway() -> None:
    """As in the gateway's container, where that file may be for its user's eyes only: of the operator's as well."""
    files = {"GATEWAY_TOKEN_FILE": "/absent", "GATEWAY_OPERATOR_TOKEN_FILE": "/absent"}
    environ = {"GATEWAY_URL": "http://gateway:8080", "GATEWAY_OPERATOR_TOKEN": "all", "GATEWAY_TOKEN": "own", **files}
    assert find(environ, None, None, None, as_operator=True)[1] == "all"
    assert find(environ, None, None, None)[1] == "own"


@pytest.mark.parametrize(
    ("environ", "url", "goes"),
    [
        ({"GATEWAY_URL": "https://gateway.example.com"}, "https://gateway.example.com/", True),
        ({"GATEWAY_URL": "https://gateway.example.com"}, "https://GATEWAY.example.com:443", True),
        ({"GATEWAY_URL": "https://gateway.example.com"}, "http://gateway.example.com", False),
        ({"GATEWAY_URL": "https://gateway.example.com"}, "https://gateway.example.com:8443", False),
        ({"GATEWAY_URL": "https://gateway.example.com"}, "https://gateway.example.com.evil.example", False),
        ({"GATEWAY_URL": "https://gateway.example.com"}, "http://127.0.0.1:8080", False),
        ({}, "http://127.0.0.1:8080", True),
        ({}, "http://localhost:8080", True),
        ({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": "9000"}, "http://[::1]:9000", True),
        ({}, "http://127.0.0.1:8081", False),
        ({}, "http://elsewhere.example.com:8080", False),
        ({"GATEWAY_PORT": "soon"}, "http://127.0.0.1:8080", False),
        ({}, "http://[::1", False),
    ],
)
def test_a_token_of_the_environment_goes_to_no_other_gateway(environ: dict[str, str], url: str, goes: bool) -> None:
    """Neither a client's nor the operator's: what is typed for another one says nothing of whose they are."""
    tokens = {"GATEWAY_OPERATOR_TOKEN": "all", "GATEWAY_TOKEN": "own"}
    assert find({**environ, **tokens}, None, url, None)[1] == ("own" if goes else None)
    assert find({**environ, **tokens}, None, url, None, as_operator=True)[1] == ("all" if goes else None)
    assert find({**environ, **tokens}, None, url, "typed", as_operator=True) == (url, "typed")


def test_an_operators_token_that_cannot_be_read_leaves_the_clients() -> None:
    """As in a pod where that file is for another user's eyes; with no other token it is said why there is none."""
    environ = {"GATEWAY_URL": "http://gateway:8080", "GATEWAY_OPERATOR_TOKEN_FILE": "/absent"}
    assert find({**environ, "GATEWAY_TOKEN": "own"}, None, None, None, as_operator=True)[1] == "own"
    with pytest.raises(ConfigError, match="GATEWAY_OPERATOR_TOKEN_FILE"):
        find(environ, None, None, None, as_operator=True)
