# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a service runs beside a published model: `handler.py` and its `requirements.txt`, which need no coca_hf."""

from pathlib import Path


HANDLER_FILES = {name: Path(__file__).with_name(name) for name in ("handler.py", "requirements.txt")}
"""Files that `coca-hf push --endpoint` puts beside a model, by their names there."""
