"""A registration's traceparent and tracestate reach the receiver with each attempt of a gateway that traces nothing."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.running import running
from tests.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def parent(number: int) -> str:
    return f"00-{TRACE}-{number:016x}-01"


class TracedHooks:
    """A receiver that keeps each attempt's trace context, and takes a webhook once it is asked for that."""

    def __init__(self) -> None:
        self.attempts: dict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
        self.takes = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        of_it = self.attempts[request.url.path]
        of_it.append((request.headers.get("traceparent"), request.headers.get("tracestate")))
        await Response(status_code=204 if self.takes else 503)(scope, receive, send)

    async def until(self, path: str, attempts: int) -> list[tuple[str | None, str | None]]:
        await until(lambda: len(self.attempts[path]) >= attempts)
        return self.attempts[path]


async def test_the_trace_context_reaches_the_receiver(tmp_path: Path) -> None:
    """Unmodified, in every attempt and redelivery, those after a restart too; of a batch in each item's.

    A callback that a create asked for has its create's. One that is malformed is left out, and nothing else is.
    """
    hooks = TracedHooks()
    simulator = SimulatedUpstream(SystemClock(), plans=Plan())
    state = {"tracestate": "rojo=1,congo=t61rcWkgMzE"}
    async with serve_simulator(simulator) as upstream, serve_asgi(hooks) as url:
        hooks.takes = False
        async with running(tmp_path, upstream) as gateway:
            asked = {"taskId": "sim-success-0-a", "callbackUrl": f"{url}/one"}
            answer = await gateway.client.post("/v1/callbacks", json=asked, headers={"traceparent": parent(1), **state})
            assert answer.status_code == 201
            again = await gateway.client.post("/v1/callbacks", json=asked, headers={"traceparent": parent(9)})
            assert again.status_code == 200  # the first one's trace stays
            await hooks.until("/one", 2)
        hooks.takes = True
        before = len(hooks.attempts["/one"])
        async with running(tmp_path, upstream, GATEWAY_PROXY_FORMAT="standard") as gateway:
            await gateway.delivered(answer.json()["id"])
            await gateway.client.post(f"/v1/callbacks/{answer.json()['id']}/redeliver")
            assert set(await hooks.until("/one", before + 2)) == {(parent(1), state["tracestate"])}

            several = [{"taskId": f"sim-success-0-{name}", "callbackUrl": f"{url}/{name}"} for name in ("two", "three")]
            body: dict[str, Any] = {"callbacks": several}
            await gateway.client.post("/v1/callbacks/batch", json=body, headers={"traceparent": parent(2)})
            assert [(await hooks.until(f"/{name}", 1))[0] for name in ("two", "three")] == [(parent(2), None)] * 2

            create = {"model": "m", "input": {}, "callBackUrl": f"{url}/four"}
            await gateway.client.post("/api/v1/jobs/createTask", json=create, headers={"traceparent": parent(4)})
            assert (await hooks.until("/four", 1))[0] == (parent(4), None)

            malformed = {"traceparent": "00-0-0-0", **state}
            asked = {"taskId": "sim-success-0-five", "callbackUrl": f"{url}/five"}
            answer = await gateway.client.post("/v1/callbacks", json=asked, headers=malformed)
            assert answer.status_code == 201
            assert (await hooks.until("/five", 1))[0] == (None, None)
