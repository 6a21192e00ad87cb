# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs: pictures of `benchmarks/`, which lie beside their figures and not in `docs/`, for the pages."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PICTURES = {"assets/memory.png": "memory.png", "assets/growth.png": "speed/growth.png"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, picture in PICTURES.items():
        files.append(File.generated(config, place, abs_src_path=str(BENCHMARKS / picture)))
    return files
