"""Looking names up with a name server on 127.0.0.1: how long that takes, who waits for whom, and what is left of it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pycares
import pytest
import uvloop

from gateway.core.clock import SystemClock
from gateway.net import resolver as resolver_module
from gateway.net.guard import Netguard, parse_allow
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.webhook.sender import Sender
from tests.nameserver import NO_SUCH_NAME, REFUSED, SERVER_FAILURE, Nameserver, serve_names
from tests.waiting import until

DEAD = 500


@pytest.fixture
async def server() -> AsyncIterator[Nameserver]:
    async with serve_names(
        live_test=["192.0.2.1", "2001:db8::1"],
        old_test=["192.0.2.4"],
        new_test=["2001:db8::6"],
        empty_test=[],
        gone_test=NO_SUCH_NAME,
        broken_test=SERVER_FAILURE,
        shy_test=REFUSED,
    ) as nameserver:
        yield nameserver


@pytest.fixture
async def make(server: Nameserver) -> AsyncIterator[Callable[..., Resolver]]:
    """Make resolvers that ask the test's name server, and are closed at the test's end."""
    made: list[Resolver] = []

    def new(**options: Any) -> Resolver:
        made.append(Resolver(**{"nameservers": [server.address], **options}))
        return made[-1]

    yield new
    for one in made:
        await one.close()


async def seen(server: Nameserver, count: int) -> None:
    await until(lambda: len(server.asked) >= count)


def hosts() -> list[tuple[str, str]]:
    """Return names and addresses of /etc/hosts."""
    lines = (line.partition("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines())
    return [(words[1], words[0]) for words in lines if len(words) > 1]


def count(what: str) -> int:
    """Return how many files ("fd") or threads ("task") this process has."""
    return sum(1 for _ in Path("/proc/self", what).iterdir())


async def nothing_left(resolver: Resolver) -> None:
    """Return once neither the resolver nor c-ares holds a look-up."""
    await until(lambda: not (pycares._handle_to_channel or resolver._retired))
    assert resolver._channel is not None
    assert not resolver._channel._look_ups


async def test_all_addresses_are_found(make) -> None:
    """A and AAAA are both asked for; one of them is enough."""
    resolver = make()
    assert sorted(await resolver.resolve("live.test", 443)) == ["192.0.2.1", "2001:db8::1"]
    assert await resolver.resolve("old.test", 443) == ["192.0.2.4"]
    assert await resolver.resolve("new.test", 443) == ["2001:db8::6"]


async def test_names_of_the_hosts_file(make, server) -> None:
    """Names that stand in /etc/hosts need no name server, and neither does localhost, wherever it stands."""
    resolver = make()
    for name, address in hosts():
        assert address in await resolver.resolve(name, 80)
    assert "127.0.0.1" in await resolver.resolve("localhost", 80)
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.test", "there is no such name"),
        ("empty.test", "the name has no address"),
        ("broken.test", "the name server could not find out"),
        ("shy.test", "the name server refused to answer"),
        ("a" * 64 + ".test", "not a valid host name"),
        ("not a name", "not a valid host name"),
        ("silent.test", "no name server answered within 0.3 s"),
    ],
)
async def test_failures_have_words(make, name: str, words: str) -> None:
    """Each failure is a gaierror that says for people what the matter is."""
    with pytest.raises(socket.gaierror) as caught:
        await make(limit_s=0.3).resolve(name, 443)
    assert caught.value.strerror == words


async def test_no_name_server_is_there(make) -> None:
    """A port where nobody listens is told from a name that is unknown."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with pytest.raises(socket.gaierror, match="no name server"):
        await make(nameservers=[f"127.0.0.1:{port}"], limit_s=2).resolve("live.test", 443)


async def test_search_domains(make, server, monkeypatch) -> None:
    """A name without a dot is looked for in the search domains, and one with a final dot is not."""
    monkeypatch.setenv("LOCALDOMAIN", "corp.test")  # in place of resolv.conf's "search"
    server.names |= {"short.corp.test": ["192.0.2.9"], "short": NO_SUCH_NAME}
    resolver = make()
    assert await resolver.resolve("short", 443) == ["192.0.2.9"]
    with pytest.raises(socket.gaierror):
        await resolver.resolve("short.", 443)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_dead_names_delay_nobody(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """While 500 names are asked for that nobody answers, a living one is found at once, by no more threads."""

    async def main() -> None:
        async with serve_names(live_test=["192.0.2.1"], other_test=["192.0.2.2"]) as server:
            resolver = Resolver(nameservers=[server.address], limit_s=3)
            await resolver.resolve("live.test", 443)
            threads = count("task")
            dead = []
            for number in range(DEAD):
                dead.append(asyncio.create_task(resolver.resolve(f"dead-{number}.test", 443)))
                if number % 10 == 9:  # a few at a time: a burst would overflow the server's buffer
                    await seen(server, 2 + number)
            assert await resolver.resolve("other.test", 443) == ["192.0.2.2"]
            assert not any(task.done() for task in dead)
            assert count("task") <= threads
            ends = await asyncio.gather(*dead, return_exceptions=True)
            assert {str(end) for end in ends} == {"[Errno -3] no name server answered within 3 s"}
            await nothing_left(resolver)
            await resolver.close()

    run(main())


async def test_a_name_asked_for_often_is_asked_once(make, server) -> None:
    """Look-ups of one name share one question, and the end of one waiter is not that of the others."""
    server.names["late.test"] = None
    resolver = make()
    waiting = [asyncio.create_task(resolver.resolve("late.test", 443)) for _ in range(100)]
    await seen(server, 1)
    for task in waiting[:99]:
        task.cancel()
    await asyncio.sleep(0)
    server.names["late.test"] = ["192.0.2.5"]  # the next try finds it
    assert await waiting[99] == ["192.0.2.5"]
    assert server.asked["late.test"] <= 4


async def test_cancelled_look_ups_leave_nothing(make, server) -> None:
    """The last waiter's end is the end of the question; the name can be asked for again."""
    resolver = make()
    waiting = [asyncio.create_task(resolver.resolve(f"dead-{number}.test", 443)) for number in range(50)]
    await seen(server, 50)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await nothing_left(resolver)
    server.names["dead-7.test"] = ["192.0.2.7"]
    assert await resolver.resolve("dead-7.test", 443) == ["192.0.2.7"]


async def test_abandoned_look_ups_are_bounded(make, server, monkeypatch) -> None:
    """c-ares is asked for few names that nobody waits for, and what is still waited for is found."""
    monkeypatch.setattr(resolver_module, "_MOST_ABANDONED", 10)
    resolver = make(limit_s=5)
    patient = asyncio.create_task(resolver.resolve("late.test", 443))
    for number in range(35):
        task = asyncio.create_task(resolver.resolve(f"dead-{number}.test", 443))
        await seen(server, number + 2)
        task.cancel()
        await asyncio.wait([task])
        assert len(pycares._handle_to_channel) <= 11
    server.names["late.test"] = ["192.0.2.5"]
    assert await patient == ["192.0.2.5"]
    await nothing_left(resolver)


async def test_a_changed_answer_counts_within_seconds(make, server, monkeypatch) -> None:
    """An answer is not kept for its TTL of ten minutes; look-ups under way survive the change to a new channel."""
    resolver = make()
    assert await resolver.resolve("old.test", 443) == ["192.0.2.4"]
    server.names["old.test"] = ["192.0.2.44"]
    patient = asyncio.create_task(resolver.resolve("late.test", 443))
    await seen(server, 2)
    monkeypatch.setattr(resolver, "_renew_at", 0.0)
    assert await resolver.resolve("old.test", 443) == ["192.0.2.44"]
    server.names["late.test"] = ["192.0.2.5"]
    assert await patient == ["192.0.2.5"]


async def test_a_new_channel_cancels_no_look_up(make, server, monkeypatch) -> None:
    """Those under way end where they began, however many; the old channel is closed with the last of them."""
    resolver = make()
    await resolver.resolve("live.test", 443)
    files, threads = count("fd"), count("task")
    cancelled = []
    monkeypatch.setattr(pycares.Channel, "cancel", lambda _self: cancelled.append(1))
    patient = [asyncio.create_task(resolver.resolve(f"late-{number}.test", 443)) for number in range(20)]
    await seen(server, 21)
    monkeypatch.setattr(resolver, "_renew_at", 0.0)
    await resolver.resolve("live.test", 443)
    assert len(resolver._retired) == 1
    for number in range(20):
        server.names[f"late-{number}.test"] = [f"192.0.2.{number}"]
    assert not cancelled
    assert await asyncio.gather(*patient) == [[f"192.0.2.{number}"] for number in range(20)]
    monkeypatch.undo()
    await nothing_left(resolver)
    await until(lambda: count("fd") <= files and count("task") <= threads)


async def test_old_channels_are_bounded(make, server, monkeypatch) -> None:
    """Of many channels with a name that is waited for the oldest is closed, and its name is asked for anew."""
    monkeypatch.setattr(resolver_module, "_MOST_RETIRED", 2)
    resolver = make()
    patient = []
    for number in range(10):
        patient.append(asyncio.create_task(resolver.resolve(f"late-{number}.test", 443)))
        await seen(server, number + 1)
        assert len(resolver._retired) <= 2
        monkeypatch.setattr(resolver, "_renew_at", 0.0)
    for number in range(10):
        server.names[f"late-{number}.test"] = [f"192.0.2.{number}"]
    assert await asyncio.gather(*patient) == [[f"192.0.2.{number}"] for number in range(10)]
    await nothing_left(resolver)


async def test_a_waiter_that_ends_with_its_channel(make, server) -> None:
    """Who is cancelled in the same turn in which the resolver is closed ends as cancelled."""
    resolver = make()
    waiting = asyncio.create_task(resolver.resolve("dead.test", 443))
    await seen(server, 1)
    await resolver.close()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_channels_leave_neither_files_nor_threads(make, monkeypatch) -> None:
    """However often a channel is renewed, the process has no more files and threads than with one."""
    resolver = make()
    await resolver.resolve("live.test", 443)
    files, threads = count("fd"), count("task")
    for _ in range(100):
        monkeypatch.setattr(resolver, "_renew_at", 0.0)
        await resolver.resolve("live.test", 443)
    await until(lambda: count("fd") <= files and count("task") <= threads)  # the last ones end in a thread


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_without_inotify(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the system has no inotify left the loop drives c-ares, which has no thread then, and it goes unnoticed."""
    channel = pycares.Channel

    def threadless(**options: Any) -> pycares.Channel:
        if "sock_state_cb" not in options:
            raise pycares.AresError("Failed to initialize c-ares channel")
        return channel(**options)

    async def main() -> None:
        async with serve_names(live_test=["192.0.2.1"], gone_test=NO_SUCH_NAME) as server:
            resolver = Resolver(nameservers=[server.address], limit_s=0.3)
            for _ in range(2):
                assert await resolver.resolve("live.test", 443) == ["192.0.2.1"]
                for name, words in (("gone.test", "no such name"), ("dead.test", "within 0.3 s")):
                    with pytest.raises(socket.gaierror, match=words):
                        await resolver.resolve(name, 443)
                await nothing_left(resolver)
                monkeypatch.setattr(resolver, "_renew_at", 0.0)
            await resolver.close()

    monkeypatch.setattr(pycares, "Channel", threadless)
    run(main())
    assert not caplog.records


async def test_closing_ends_look_ups(make, server) -> None:
    """Who waits gets an error at once, and so does who asks afterwards; closing twice or unused does no harm."""
    unused, resolver = make(), make()
    waiting = asyncio.create_task(resolver.resolve("dead.test", 443))
    await seen(server, 1)
    await resolver.close()
    await resolver.close()
    await unused.close()
    for coroutine in (waiting, resolver.resolve("live.test", 443)):
        with pytest.raises(socket.gaierror, match="shutting down"):
            await coroutine


async def test_a_sender_says_dns(make) -> None:
    """Over the real transport a name that does not exist, and one that nobody answers for, are the reason dns."""
    resolver = make(limit_s=0.3)
    transport = PooledTransport(guard=Netguard(), resolve=resolver.resolve, limit=10)
    sender = Sender(transport, SystemClock(), timeout_s=5)
    for name, words in (("gone.test", "there is no such name"), ("dead.test", "no name server answered within 0.3 s")):
        result = await sender.send(f"https://{name}/hook?canary", {}, b"{}")
        assert (result.status_code, result.reason) == (None, "dns")
        assert result.error == (
            f"The name of {name} could not be resolved ({words}): check the callback URL's host and its DNS record."
        )
    await transport.aclose()


async def test_a_transport_dials_what_was_found(make, server, raw_server, answering) -> None:
    """A request to a name that only the name server knows, and one to localhost, arrive."""
    receiver = await raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    server.names["hooks.test"] = ["127.0.0.1"]
    guard = Netguard(parse_allow("127.0.0.0/8, localhost"))
    transport = PooledTransport(guard=guard, resolve=make().resolve, limit=10)
    for host in ("hooks.test", "localhost"):
        request = httpx.Request("POST", receiver.url(host=host), content=b"{}")
        response = await transport.handle_async_request(request)
        assert response.status_code == 200
        await response.aclose()
    await transport.aclose()
