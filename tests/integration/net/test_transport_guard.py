"""The guard at the transport's sockets: what is refused is decided by the address that is dialled."""

import asyncio

import pytest

from gateway.core.errors import AddressNotAllowed
from gateway.net.guard import Netguard, parse_allow
from tests.transports import OK, post, resolving

LOOPBACK = Netguard(parse_allow("127.0.0.0/8"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0.0.0.0:{port}/",
        "http://127.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0:{port}/",
        "http://localhost:{port}/",
        "http://localhost.:{port}/",
        "http://user@127.0.0.1:{port}/",
        "http://public.example.test:{port}/",
    ],
)
async def test_blocked_url_never_reaches_a_socket(make, raw_server, answering, url: str) -> None:
    """With the default policy nothing connects to this machine, however its address is written."""
    server = await raw_server(answering(OK))
    transport = make(guard=Netguard())
    with pytest.raises(AddressNotAllowed):
        await post(transport, url.format(port=server.port))
    assert server.connections == 0


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"]])
async def test_name_that_resolves_elsewhere_at_connect(make, raw_server, answering, answer: list[str]) -> None:
    """A name that was public when registered and points inside now is refused, mixed answers included."""
    guard = Netguard()

    async def public(host: str, port: int) -> list[str]:
        return ["8.8.8.8"]

    assert await guard.check_registration("https://rebind.example.test/", public)
    server = await raw_server(answering(OK))
    transport = make(guard=guard, resolve=resolving(rebind_example_test=answer))
    with pytest.raises(AddressNotAllowed) as caught:
        await post(transport, "https://rebind.example.test/")
    assert caught.value.rule == "loopback"
    assert server.connections == 0


async def test_concurrent_requests_to_a_refused_name(make) -> None:
    """Requests that share one look-up each get the refusal."""
    resolve = resolving(rebind_example_test=["127.0.0.1"])
    transport = make(guard=Netguard(), resolve=resolve)
    results = await asyncio.gather(
        *(post(transport, "https://rebind.example.test/") for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [AddressNotAllowed] * 5


async def test_network_entry_is_decided_by_the_dialled_address(make, raw_server, answering) -> None:
    """With a network allowed, a name over http is dialled inside it and refused outside of it."""
    server = await raw_server(answering(OK))
    transport = make(guard=LOOPBACK, resolve=resolving(inside=["127.0.0.1"], outside=["10.0.0.1"], public=["8.8.8.8"]))
    assert (await post(transport, server.url(host="inside"))).status_code == 200
    for host, rule in (("outside", "private"), ("public", "local_name")):
        with pytest.raises(AddressNotAllowed) as caught:
            await post(transport, server.url(host=host))
        assert caught.value.rule == rule
    assert server.connections == 1


async def test_http_is_refused_where_https_shares_the_look_up(make, raw_server, answering) -> None:
    """The scheme is checked at the socket: an address found for an https request does not serve an http one."""
    transport = make(guard=LOOPBACK, resolve=resolving(hooks_example_test=["8.8.8.8"]))
    with pytest.raises(AddressNotAllowed) as caught:
        await post(transport, "http://hooks.example.test:443/")
    assert caught.value.rule == "scheme"


async def test_socket_check_stands_alone(make, raw_server, answering, monkeypatch) -> None:
    """Should the URL's check ever miss an address, the check of what is dialled refuses it."""
    server = await raw_server(answering(OK))
    transport = make(guard=Netguard())
    monkeypatch.setattr(Netguard, "check_target", lambda *_: None)
    with pytest.raises(AddressNotAllowed):
        await post(transport, server.url())
    transport = make(guard=Netguard(), resolve=resolving(hooks_example_test=["127.0.0.1"]))
    with pytest.raises(AddressNotAllowed):
        await post(transport, server.url(host="hooks.example.test"))
    assert server.connections == 0


async def test_pooled_connection_is_not_reused_for_another_name(make, raw_server, answering) -> None:
    """A connection belongs to the host it was checked for, though another shares its address."""
    server = await raw_server(answering(OK))
    resolve = resolving(one=["127.0.0.1"], two=["127.0.0.1"], three=["127.0.0.1"])
    transport = make(guard=Netguard(parse_allow("one, two")), resolve=resolve)
    await post(transport, server.url(host="one"))
    await post(transport, server.url(host="two"))
    with pytest.raises(AddressNotAllowed):
        await post(transport, server.url(host="three"))
    assert server.connections == 2
