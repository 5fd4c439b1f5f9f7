"""The peer of a registration: Starlette under uvicorn, one JSON route, no storage, no check. Prints its URL."""

import json
import socket

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def register(request: Request) -> Response:
    return Response(msgspec.json.encode(msgspec.json.decode(await request.body())), 201, media_type="application/json")


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    app = Starlette(routes=[Route("/v1/callbacks", register, methods=["POST"])])
    config = uvicorn.Config(app, http="httptools", loop="uvloop", log_config=None, access_log=False, lifespan="off")
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
