# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a converted checkpoint."""

from pathlib import Path

from ..configuration_coca import CoCaConfig
from ..publishing.card import folder_card


def write_card(folder: Path, source: str, config: CoCaConfig) -> None:
    """Writes `README.md` of a model converted from `source`, a Hub id or the name of a file."""
    card = folder_card(config.to_dict(), source.removeprefix("hf-hub:").rstrip("/"))
    (folder / "README.md").write_text(card, encoding="utf-8")
