"""Receivers that people pause and resume on the pages, and whose they are."""

import html
import re
from pathlib import Path

from gateway.core.model import CallbackState
from tests.dashboard import Visitor
from tests.pagestand import OPERATOR, world_at
from tests.storing import brought_to, new


async def test_a_paused_receiver_gets_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    """Also after a restart; others go on, nothing is lost, and each page that tells of the receiver says so."""
    environ = {"GATEWAY_CALLBACK_ALLOW": "127.0.0.1,localhost"}
    async with world_at(tmp_path, **environ) as world:
        await world.delivered(await world.registered("sim-success-0-first", world.hooks_url))
        receiver = world.hooks_url.removesuffix("/hooks")
        answer = await world.visitor.post("/dashboard/receivers/pause", "/dashboard/receivers", receiver=receiver)
        assert answer.headers["location"] == "/dashboard/receivers?done=paused"
        text = await world.visitor.page("/dashboard/receivers?done=paused")
        assert "The receiver was paused: its webhooks wait" in text
        assert f"{receiver} paused by default" in text
        assert f"Receivers that are paused {receiver} , by default" in await world.visitor.page("/")
        assert "gateway_receivers_paused 1.0" in (await world.client.get("/metrics")).text
        posts = world.hooks.posts
        waiting = await world.registered("sim-success-0-cat", world.hooks_url)
        page = f"/dashboard/callbacks/{waiting}"
        text = await world.shows(page, "Attempt 1 waits for its receiver to be resumed")
        assert "Paused by default since" in text
        await world.shows("/", "Longest due \N{EN DASH} nothing is due, but for receivers that are paused Dead 0")
        assert "gateway_oldest_due_seconds 0.0" in (await world.client.get("/metrics")).text
        other = world.hooks_url.replace("127.0.0.1", "localhost")
        await world.delivered(await world.registered("sim-success-0-dog", other))
        assert world.hooks.posts == posts + 1
        assert (await world.client.get(f"/v1/callbacks/{waiting}")).json()["attempts"] == 0
    hooks = world.hooks_url
    async with world_at(tmp_path, **environ) as world:
        assert "paused by default" in await world.visitor.page(page)
        await world.delivered(await world.registered("sim-success-0-cow", world.hooks_url))
        assert (await world.client.get(f"/v1/callbacks/{waiting}")).json()["attempts"] == 0
        fields = {"receiver": hooks, "callback": waiting}
        answer = await world.visitor.post("/dashboard/receivers/resume", page, **fields)
        assert answer.headers["location"] == f"{page}?done=resumed"
        await world.becomes(f"/v1/callbacks/{waiting}", lambda answer: answer.json()["attempts"] > 0)
        assert "Receivers that are paused" not in await world.visitor.page("/")
        for nonsense in ("", "javascript:alert(1)", "http://[", "https://" + "a" * 9000):
            answer = await world.visitor.post("/dashboard/receivers/pause", page, receiver=nonsense)
            assert answer.status_code == 422, nonsense


async def test_webhooks_of_a_table_that_is_gone_are_paused_as_they_are_called(tmp_path: Path) -> None:
    """Those that were registered under it are called as it was; the rest of the host is another receiver."""
    environ = {"GATEWAY_CALLBACK_ALLOW": "localhost", "GATEWAY_RETRY_SCHEDULE": "0,3600"}
    (tmp_path / "tables.toml").write_text('[[receivers]]\nmatch = "http://localhost:9/hooks"')
    async with world_at(tmp_path, GATEWAY_CONFIG=str(tmp_path / "tables.toml"), **environ) as world:
        callback_id = await world.registered("sim-success-0-cat", "http://localhost:9/hooks/1")
        await world.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["attempts"] == 1)
    page = f"/dashboard/callbacks/{callback_id}"
    async with world_at(tmp_path, **environ) as world:
        (named,) = re.findall(r'name="receiver" value="([^"]+)"', (await world.visitor.get(page)).text)
        await world.visitor.post("/dashboard/receivers/pause", page, receiver=named, callback=callback_id)
        assert "Paused by default since" in await world.visitor.page(page)
        assert "Receivers that are paused http://localhost:9/hooks , by" in await world.visitor.page("/")


async def test_a_paused_host_holds_back_a_table_that_is_added_later(tmp_path: Path) -> None:
    """It was paused with its paths, and stays so; its page says with whom, and resumes that."""
    environ = {"GATEWAY_CALLBACK_ALLOW": "127.0.0.1"}
    async with world_at(tmp_path, **environ) as world:
        await world.delivered(await world.registered("sim-success-0-first", world.hooks_url))
        host = world.hooks_url.removesuffix("/hooks")
        await world.visitor.post("/dashboard/receivers/pause", "/dashboard/receivers", receiver=host)
    (tmp_path / "tables.toml").write_text(f'[[receivers]]\nmatch = "{host}/slow"')
    async with world_at(tmp_path, GATEWAY_CONFIG=str(tmp_path / "tables.toml"), **environ) as world:
        callback_id = await world.registered("sim-success-0-cat", f"{host}/slow/1")
        page = f"/dashboard/callbacks/{callback_id}"
        text = await world.shows(page, "Attempt 1 waits for its receiver to be resumed")
        assert f"Paused with {host} by default since" in text
        assert f"paused with {host} by default" in text
        assert (await world.client.get(f"/v1/callbacks/{callback_id}")).json()["attempts"] == 0
        assert "gateway_oldest_due_seconds 0.0" in (await world.client.get("/metrics")).text
        (named,) = re.findall(r'name="receiver" value="([^"]+)"', (await world.visitor.get(page)).text)
        await world.visitor.post("/dashboard/receivers/resume", page, receiver=named, callback=callback_id)
        await world.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["attempts"] > 0)


async def test_a_pause_outlives_the_table_that_it_was_named_by(tmp_path: Path) -> None:
    """What is registered later is held too where its URL begins so, and the rest of the host goes on."""
    environ, on = {"GATEWAY_CALLBACK_ALLOW": "127.0.0.1"}, "/dashboard/receivers"
    tables = tmp_path / "tables.toml"
    async with world_at(tmp_path, **environ) as world:
        await world.delivered(await world.registered("sim-success-0-first", world.hooks_url))
        host = world.hooks_url.removesuffix("/hooks")
        table = f"{host}/slow"
        tables.write_text(f'[[receivers]]\nmatch = "{table}"')
        page = f"/dashboard/callbacks/{await world.registered('sim-never-0-first', world.hooks_url)}"
    async with world_at(tmp_path, GATEWAY_CONFIG=str(tables), **environ) as world:
        await world.visitor.post(f"{on}/pause", page, receiver=f"{table}/1")
    async with world_at(tmp_path, **environ) as world:
        callback_id = await world.registered("sim-success-0-cat", f"{table}/1")
        page = f"/dashboard/callbacks/{callback_id}"
        text = await world.shows(page, "Attempt 1 waits for its receiver to be resumed")
        assert f"paused with {table} by default" in text or "paused by default" in text
        await world.delivered(await world.registered("sim-success-0-dog", world.hooks_url))
        callback = (await world.client.get(f"/v1/callbacks/{callback_id}")).json()
        assert (callback["state"], callback["attempts"]) == ("pending", 0)
        assert "gateway_oldest_due_seconds 0.0" in (await world.client.get("/metrics")).text
        assert f"{table} paused by default" in await world.visitor.page(on)
        answer = await world.visitor.post(f"{on}/resume", on, receiver=table)
        assert "The receiver was resumed" in await world.visitor.page(answer.headers["location"])
        await world.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["attempts"] > 0)


async def test_what_the_hosts_pause_holds_is_not_said_to_be_resumed(tmp_path: Path) -> None:
    """It is said what holds it; its own pause alone can be ended."""
    host, table, on = "http://localhost:9", "http://localhost:9/slow", "/dashboard/receivers"
    (tmp_path / "tables.toml").write_text(f'[[receivers]]\nmatch = "{table}"')
    environ = {"GATEWAY_CALLBACK_ALLOW": "localhost", "GATEWAY_CONFIG": str(tmp_path / "tables.toml")}
    async with world_at(tmp_path, **environ) as world:
        callback_id = await world.registered("sim-never-0-cat", f"{table}/1")

        async def done(what: str, receiver: str, **more: str) -> tuple[int, str]:
            page = f"/dashboard/callbacks/{callback_id}"
            answer = await world.visitor.post(f"{on}/{what}", page, receiver=receiver, **more)
            if answer.status_code != 303:
                return answer.status_code, world.visitor.text(answer)
            return 303, await world.visitor.page(answer.headers["location"])

        await done("pause", host)
        status, text = await done("resume", f"{table}/1")
        assert status == 409
        assert f"{table} has no pause of its own to end: {host} is paused, by default since" in text
        for more in ({}, {"callback": callback_id}):
            await done("pause", f"{table}/1")
            status, text = await done("resume", f"{table}/1", **more)
            assert status == 303
            assert f"nothing is sent yet all the same: {host} is paused, by default since" in text
        assert "The receiver was resumed" in (await done("resume", host))[1]
        status, text = await done("resume", host)
        assert (status, "The receiver is not paused: there was nothing to resume." in text) == (303, True)
        assert "The receiver was resumed" in await world.visitor.page(f"{on}?done=held&client=default&receiver={table}")


async def test_a_client_pauses_its_own_webhooks_alone(tmp_path: Path) -> None:
    """Whatever its form says; the operator says whose are meant."""
    async with world_at(tmp_path, GATEWAY_TOKEN="mine", GATEWAY_OPERATOR_TOKEN=OPERATOR) as world:
        await world.visitor.sign_in("mine")
        receiver = "https://shop.example.com"
        about = {"receiver": receiver, "client": "other"}
        await world.visitor.post("/dashboard/receivers/pause", "/dashboard/receivers", **about)
        assert "paused by default" in await world.visitor.page("/dashboard/receivers")
        async with Visitor(str(world.client.base_url)) as operator:
            await operator.sign_in(OPERATOR)
            assert f"{receiver} default paused by default" in await operator.page("/dashboard/receivers")
            answer = await operator.post("/dashboard/receivers/pause", "/dashboard/receivers", receiver=receiver)
            assert "of which client" in answer.text
            answer = await operator.post("/dashboard/receivers/pause", "/dashboard/receivers", **about)
            assert (answer.status_code, "There is no client 'other'." in html.unescape(answer.text)) == (404, True)
            await brought_to(world.gateway.store, CallbackState.CANCELLED, new("gone", client="other"))
            await operator.post("/dashboard/receivers/pause", "/dashboard/receivers", **about)
            assert f"{receiver} other paused by operator" in await operator.page("/dashboard/receivers")
        assert "operator" not in await world.visitor.page("/dashboard/receivers")
