# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A saved folder as a Space: the page of `coca-hf demo`, with the model beside it."""

import importlib.metadata
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from .check import isolated, lay_out
from .errors import PublishingError
from .plan import CARD, Publication, plan_publication


_SECONDS = 120
_MODEL = "model"

_APP = """from pathlib import Path

from coca_hf.app import launch
from coca_hf.batch_inference import ModelChoice


launch([ModelChoice(str(Path(__file__).with_name("model")))], is_public=True)
"""

_CARD = """---
title: {title}
emoji: 🖼️
colorFrom: indigo
colorTo: pink
sdk: gradio
sdk_version: {gradio}
app_file: app.py
short_description: Captions, search, labels, and where the model looks
---

# {title}

Captions of pictures whose words show where the model looked, search in pictures by words or by a picture, and labels
of your own, made by the model in `model/`. It is the page that `coca-hf demo` opens. From a copy of this repository it
starts with `pip install -r requirements.txt` and `python app.py`.
"""


def plan_space(folder: str | Path, repo_id: str) -> Publication:
    """
    The files of a Space that shows the model in a saved folder: app.py, requirements.txt, a card, and the model.

    Raises:
        PublishingError: As by `plan_publication`; or Gradio is not installed, which the Space is checked with.
    """
    model = plan_publication(folder, repo_id)
    try:
        gradio = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        raise PublishingError(
            "A Space is started here first, which needs Gradio: pip install 'coca-hf[demo]'."
        ) from None
    release = importlib.metadata.version("coca-hf")
    return replace(
        model,
        kind="space",
        card=_CARD.format(title=repo_id.partition("/")[2], gradio=gradio),
        paths={f"{_MODEL}/{name}": path for name, path in model.paths.items()},
        texts={
            "app.py": _APP,
            "requirements.txt": f"coca-hf[demo]=={release}\n",
            f"{_MODEL}/{CARD}": model.card,
        },
    )


def check_starts(publication: Publication) -> None:
    """
    Starts a planned Space here, without a network, until it answers.

    Raises:
        PublishingError: It does not.
    """
    with tempfile.TemporaryDirectory(prefix="coca-hf-space-") as scratch:
        place, home = Path(scratch, "space"), Path(scratch, "home")
        home.mkdir()
        lay_out(publication, place)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**isolated(home), "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
        with open(Path(scratch, "output.txt"), "w+b") as output:
            command = [sys.executable, "app.py"]
            process = subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=output)
            try:
                if not _answers(process, f"http://127.0.0.1:{port}/"):
                    output.seek(0)
                    last = output.read().decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
                    raise PublishingError(f"The Space does not start: {last[0].strip().rstrip('.')}.")
            finally:
                process.terminate()
                process.wait()


def _answers(process: subprocess.Popen, address: str) -> bool:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.5)
    return False
