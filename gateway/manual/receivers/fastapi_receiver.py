"""A receiver in FastAPI: uvicorn fastapi_receiver:app

Needs fastapi, uvicorn and the gateway's package, and WEBHOOK_SECRET: whsec_…, or whpk_….
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

from gateway.receiver import Abandoned, Busy, Event, Failed, SqliteIds, Succeeded
from gateway.receiver.starlette import WebhookEvent

webhook = WebhookEvent(os.environ["WEBHOOK_SECRET"])  # several with spaces between them, while one is replaced
ids = SqliteIds("webhook-ids.db")
app = FastAPI()


def handle(event: Event) -> None:
    """Do what is to be done once; an exception has the webhook come again."""
    match event:
        case Succeeded():
            print("succeeded", event.task_id, *event.result_urls, flush=True)
        case Failed():
            print("failed", event.task_id, event.fail_msg, flush=True)
        case Abandoned():
            print("abandoned", event.task_id, event.reason, flush=True)


@app.post("/hooks", status_code=204)
def hooks(event: Annotated[Event, Depends(webhook)]) -> None:  # no coroutine: it may wait for the disk
    try:
        with ids.once(event.webhook_id) as first:
            if first:
                handle(event)
    except Busy as busy:
        raise HTTPException(503, busy.message, {"retry-after": str(busy.retry_after_s)}) from busy
