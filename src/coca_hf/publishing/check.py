# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether what is about to be published loads where only transformers is installed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import shorten

from .errors import PublishingError
from .plan import CARD, Publication


_PROBE = Path(__file__).with_name("probe.py")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")


def check_loads(publication: Publication) -> None:
    """
    Loads exactly the files that will be published, in a process without this package, and runs them on an image.

    The process has no network and no token, and caches of its own, which are removed.

    Raises:
        PublishingError: It does not load, or does not run; the message says why.
    """
    with tempfile.TemporaryDirectory(prefix="coca-hf-check-") as scratch:
        folder, home = Path(scratch, "model"), Path(scratch, "home")
        home.mkdir()
        lay_out(publication, folder)
        done = subprocess.run(
            # Not by its path: Python would look for modules beside it first.
            [sys.executable, "-c", _PROBE.read_text(encoding="utf-8"), str(folder)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=isolated(home),
        )
    if done.returncode:
        reason = _reason(done).replace(str(folder), str(publication.folder))
        raise PublishingError(
            f"'{publication.folder}' does not load where only transformers is installed: {reason}. Nothing was sent."
        )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The probe's last line. One that is killed, for want of memory perhaps, leaves none of its own."""
    said = done.stderr.strip().splitlines()
    if done.returncode == 1 and said:
        return shorten(said[-1], 500).rstrip(".")
    return f"the process that tried ended with code {done.returncode}, for want of memory perhaps"


def isolated(home: Path) -> dict[str, str]:
    """The environment without tokens and network, and with the caches in `home`."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    own = {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")}
    return {**kept, **own, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}


def lay_out(publication: Publication, folder: Path) -> None:
    """The repository-to-be, its files linked rather than copied."""
    for name, path in publication.paths.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
    for name, text in {**publication.texts, CARD: publication.card}.items():
        (folder / name).write_text(text, encoding="utf-8")
