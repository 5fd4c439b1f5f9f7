"""A client of the gateway for programs in Python, for threads and for asyncio.

::

    from gateway.client import Client

    with Client("http://127.0.0.1:8080", token="…") as gateway:
        callback = gateway.register("task_xxx", "https://app.example.com/hooks", metadata={"orderId": 7})
        task = gateway.wait(callback, timeout_s=600)

Needs httpx and nothing else; imports nothing of the server. The manual's page is Python.
"""

from gateway.client.clients import AsyncClient, Client
from gateway.client.errors import ApiError, ClientError, FieldMistake, NotAGateway, Unreachable, WaitTimeout
from gateway.client.results import Attempt, BatchResult, Callback, Page, Registration, Task, TaskProgress
from gateway.core.taskoutcome import TaskOutcome

__all__ = [
    "ApiError",
    "AsyncClient",
    "Attempt",
    "BatchResult",
    "Callback",
    "Client",
    "ClientError",
    "FieldMistake",
    "NotAGateway",
    "Page",
    "Registration",
    "Task",
    "TaskOutcome",
    "TaskProgress",
    "Unreachable",
    "WaitTimeout",
]
