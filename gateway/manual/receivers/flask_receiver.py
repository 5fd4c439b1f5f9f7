"""A receiver in Flask: flask --app flask_receiver run

Needs flask and the gateway's package, and WEBHOOK_SECRET: whsec_…, or whpk_….
"""

import os

from flask import Flask, Response, request

from gateway.receiver import Abandoned, Busy, Event, Failed, SqliteIds, Succeeded, VerificationError, verify

SECRET = os.environ["WEBHOOK_SECRET"]  # several with spaces between them, while one is replaced
ids = SqliteIds("webhook-ids.db")
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 64 * 1024 * 1024  # a result may hold images


def handle(event: Event) -> None:
    """Do what is to be done once; an exception has the webhook come again."""
    match event:
        case Succeeded():
            print("succeeded", event.task_id, *event.result_urls, flush=True)
        case Failed():
            print("failed", event.task_id, event.fail_msg, flush=True)
        case Abandoned():
            print("abandoned", event.task_id, event.reason, flush=True)


@app.post("/hooks")
def hooks() -> Response:
    try:
        event = verify(request.get_data(), request.headers, SECRET)
        with ids.once(event.webhook_id) as first:
            if first:
                handle(event)
    except VerificationError as error:
        return Response(error.message, 401)
    except Busy as busy:
        return Response(busy.message, 503, {"retry-after": str(busy.retry_after_s)})
    return Response(status=204)
