# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf demo`."""

import os
import threading
from typing import Annotated

from ..batch_inference.models import DTYPES, ModelChoice, check_device, check_model
from . import console
from .console import UsageError, as_usage_error
from .options import Quiet, option


def demo(
    model: Annotated[
        list[str] | None, option("Folder or Hub id (default: the bundled one). Again: to compare.", "MODEL")
    ] = None,
    share: Annotated[bool, option("A public address, through Gradio's servers.", None, "--share")] = False,
    port: Annotated[int | None, option("Port (default: the first free one from 7860 on).", "N")] = None,
    device: Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps or xpu.", "DEVICE")] = "auto",
    dtype: Annotated[str, option("auto (fastest), float32 (exact), bfloat16 or float16.", "TYPE")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Try a model in the browser.

    A page with captions whose words show where the model looked, search, labels, and two models
    side by side. It is served to this computer alone, and needs no network. Ctrl-C ends it.
    """
    choices = _choices(model or [], device, dtype)
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"port {port} is not allowed: give 1 to 65535")
    # Gradio asks its maker's servers for newer versions and counts starts otherwise.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    console.silence_libraries()
    try:
        from ..app import launch
    except ImportError as error:
        raise UsageError(str(error)) from error
    try:
        _, address, public = launch(choices, share=share, port=port, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        raise UsageError(f"port {port} is taken, or none from 7860 on is free: name another with --port") from error
    if not quiet:
        console.complain(f"the page is at {address}; Ctrl-C ends it")
        if public:
            console.complain(f"and for everyone at {public}")
    # Till Ctrl-C.
    threading.Event().wait()


def _choices(names: list[str], device: str, dtype: str) -> list[ModelChoice]:
    import coca_hf

    if dtype not in DTYPES:
        raise UsageError(f"no such type: {dtype!r}. Give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    with as_usage_error():
        check_device(device)
        for name in names:
            check_model(name, captions=True)
    return [ModelChoice(name, device, dtype) for name in names or [str(coca_hf.bundled_model())]]
