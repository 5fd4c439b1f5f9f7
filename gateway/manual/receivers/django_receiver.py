"""A receiver in Django: python django_receiver.py runserver

The whole project in one file; the view `hooks` is what goes into yours. Needs django and the gateway's package, and
WEBHOOK_SECRET: whsec_…, or whpk_….
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from gateway.receiver import Abandoned, Busy, Event, Failed, SqliteIds, Succeeded, VerificationError, verify

SECRET = os.environ["WEBHOOK_SECRET"]  # several with spaces between them, while one is replaced
ids = SqliteIds("webhook-ids.db")


def handle(event: Event) -> None:
    """Do what is to be done once; an exception has the webhook come again."""
    match event:
        case Succeeded():
            print("succeeded", event.task_id, *event.result_urls, flush=True)
        case Failed():
            print("failed", event.task_id, event.fail_msg, flush=True)
        case Abandoned():
            print("abandoned", event.task_id, event.reason, flush=True)


@csrf_exempt  # the signature says who sent it
@require_POST
def hooks(request: HttpRequest) -> HttpResponse:
    try:
        event = verify(request.body, request.headers, SECRET)
        with ids.once(event.webhook_id) as first:
            if first:
                handle(event)
    except VerificationError as error:
        return HttpResponse(error.message, status=401)
    except Busy as busy:
        return HttpResponse(busy.message, status=503, headers={"retry-after": str(busy.retry_after_s)})
    return HttpResponse(status=204)


settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.urandom(32),
    ALLOWED_HOSTS=["*"],
    # A result may hold images; by default Django refuses more than 2.5 MB.
    DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024 * 1024,
)
urlpatterns = [path("hooks", hooks)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
