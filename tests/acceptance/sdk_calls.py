"""What Python SDKs call beside create and read; run by ``test_sdks``, in their environment, against a gateway.

Reads where the gateway and OpenAI's simulated upstream are, and prints what each call came to as JSON. Must wait where
the gateway's state may be a poll behind the upstream's.
"""

import io
import json
import sys
import time
from typing import Any

import httpx
import replicate
from lumaai import LumaAI
from openai import APIStatusError, OpenAI
from runwayml import RunwayML


def lost(gateway: str, simulator: str) -> list[int]:
    """Create videos whose answers are lost, and then some at which OpenAI fails; return what each got.

    Both without an ID of the caller's own and with one.
    """
    fault = {"endpoint": "createTask", "times": 2}
    faults = [{"kind": "reset", **fault}, {"kind": "error", "status": 500, **fault}]
    httpx.post(f"{simulator}/_sim/faults", json=faults, trust_env=False)
    videos, statuses = OpenAI(base_url=f"{gateway}/u/openai-video/v1").videos, []
    headers: dict[str, str]
    for headers in ({}, {"X-Request-ID": "order-7"}, {}, {"X-Request-ID": "order-8"}):
        try:
            videos.create(prompt="A cat", extra_headers=headers)
        except APIStatusError as error:
            statuses.append(error.status_code)
    return statuses


def main(gateway: str, openai: str) -> dict[str, Any]:
    """Return what the calls came to."""
    predictions = replicate.Client(base_url=f"{gateway}/u/replicate").predictions
    prediction = predictions.create(version="5c7d", input={"image": io.BytesIO(b"\x89PNG\r\n\x00\xff")})
    told: dict[str, Any] = {"file": prediction.input["image"].rpartition("/")[2]}
    told["predictions"] = prediction.id in [each.id for each in predictions.list().results]
    predictions.cancel(prediction.id)
    prediction.wait()
    told["prediction"] = prediction.status

    videos = OpenAI(base_url=f"{gateway}/u/openai-video/v1").videos
    video = videos.create(prompt="A cat", input_reference=("cat.png", b"\x89PNG\r\n\r\n"))
    told["videos"] = video.id in [each.id for each in videos.list()]
    told["video"] = videos.delete(video.id).deleted

    generations = LumaAI(base_url=f"{gateway}/u/luma/dream-machine/v1").generations
    image = generations.image.create(prompt="A cat", model="photon-1")
    told["generations"] = image.id in [each.id for each in generations.list().generations]
    generations.delete(image.id)

    runway = RunwayML(base_url=f"{gateway}/u/runway")
    task = runway.text_to_image.create(model="gen4_image", prompt_text="A cat", ratio="1920:1080")
    runway.tasks.delete(task.id)
    while (state := runway.tasks.retrieve(task.id).status) in ("PENDING", "RUNNING"):
        time.sleep(0.05)  # no SDK waits for a task that was cancelled; whoever runs this has a limit of time
    return told | {"task": state, "lost": lost(gateway, openai)}


if __name__ == "__main__":
    print(json.dumps(main(**json.load(sys.stdin))))
