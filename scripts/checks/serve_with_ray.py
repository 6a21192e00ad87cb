# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The handler of a published model on two replicas of Ray Serve, of which one is killed under load: no answer is lost.

pip install 'coca-hf[serve]'
python scripts/checks/serve_with_ray.py
"""

import asyncio
import base64
import concurrent.futures
import json
import os
import signal
import time
import urllib.request
from typing import Annotated, Any

import ray
import typer
from ray import serve

import coca_hf
from coca_hf.serving.handler import EndpointHandler


REQUESTS, AT_ONCE = 120, 8


@serve.deployment(num_replicas=2, max_ongoing_requests=4, ray_actor_options={"num_cpus": 1})
class Served:
    """What docs/serving.md shows."""

    def __init__(self, path: str) -> None:
        self.handler = EndpointHandler(path)

    async def __call__(self, request: Any) -> Any:
        data = await request.json()
        if data.get("inputs") == "who":
            return os.getpid()
        return await asyncio.to_thread(self.handler, data)


def main(model: Annotated[str, typer.Option(help="Saved folder.")] = str(coca_hf.bundled_model())) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.run(Served.bind(model))  # type: ignore[attr-defined]
    images = [base64.b64encode(path.read_bytes()).decode() for path in coca_hf.example_images()]
    handler = EndpointHandler(model)
    expected = [handler({"inputs": image}) for image in images]
    process_ids = {ask({"inputs": "who"}) for _ in range(20)}
    print(f"replicas: {len(process_ids)}")
    wrong = lost = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(ask, {"inputs": images[index % len(images)]}) for index in range(REQUESTS)]
        time.sleep(1)
        os.kill(sorted(process_ids)[0], signal.SIGKILL)
        for index, future in enumerate(futures):
            try:
                wrong += future.result() != expected[index % len(images)]
            except OSError:
                lost += 1
    print(f"{REQUESTS} requests, one of {len(process_ids)} replicas killed: {wrong} wrong, {lost} lost")
    serve.shutdown()
    raise typer.Exit(1 if wrong or lost or len(process_ids) != 2 else 0)


def ask(data: Any, attempts: int = 5) -> Any:
    """The service's answer. A request that was with the replica that died is sent again, as any client does."""
    body = json.dumps(data).encode()
    for attempt in range(attempts):
        try:
            with urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8000", body), timeout=60) as answer:
                return json.load(answer)
        except OSError:
            if attempt == attempts - 1:
                raise
            time.sleep(1)
    return None


if __name__ == "__main__":
    typer.run(main)
