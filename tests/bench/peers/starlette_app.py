"""Registrations by a bare Starlette application: JSON in, the same JSON out as the gateway's, and nothing is kept.

With the gateway's settings of uvicorn, and uvicorn's own protocol on httptools. Runs with the gateway's packages and
prints its URL. The distance to it is the price of keeping what was registered, and of the checks.
"""

import json
import socket
import time
import uuid

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def register(request: Request) -> Response:
    return answer(callback(msgspec.json.decode(await request.body())), 201)


async def register_batch(request: Request) -> Response:
    asked = msgspec.json.decode(await request.body())
    return answer({"data": [{"status": 201, "callback": callback(item)} for item in asked["callbacks"]]}, 200)


def callback(asked: dict[str, str]) -> dict[str, object]:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    return {
        "id": f"cb_{uuid.uuid4().hex}",
        "taskId": asked["taskId"],
        "upstream": "aigptimage",
        "callbackUrl": asked["callbackUrl"],
        "state": "waiting",
        "metadata": {},
        "timeoutSeconds": 86400,
        "createdAt": now,
        "expiresAt": now,
        "attempts": 0,
        "nextAttemptAt": None,
        "deliveredAt": None,
        "lastError": None,
        "task": {"state": "waiting", "polls": 0, "lastPolledAt": None, "nextPollAt": now, "lastError": None},
    }


def answer(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def main() -> None:
    routes = [
        Route("/v1/callbacks", register, methods=["POST"]),
        Route("/v1/callbacks/batch", register_batch, methods=["POST"]),
    ]
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        Starlette(routes=routes),
        http="httptools",
        loop="uvloop",
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=4096,
        timeout_keep_alive=75,
    )
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
