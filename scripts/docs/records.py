# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs: tables and pictures of `benchmarks/`, which lie beside their figures and not in `docs/`."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PICTURES = {
    "assets/keeps_what_it_knew.png": "keeps_what_it_knew.png",
    "assets/memory.png": "memory.png",
    "benchmarks/speed/growth.png": "speed/growth.png",
    "benchmarks/speed-avx2/growth.png": "speed-avx2/growth.png",
}
TABLES = {
    "benchmarks/speed/table.md": "Speed, with AVX512 and bfloat16",
    "benchmarks/speed-avx2/table.md": "Speed, with AVX2",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, picture in PICTURES.items():
        files.append(File.generated(config, place, abs_src_path=str(BENCHMARKS / picture)))
    for place, title in TABLES.items():
        text = (BENCHMARKS.parent / place).read_text(encoding="utf-8")
        page = f"# {title}\n\nWhat `benchmarks/benchmark.py` measured, as it wrote it.\n\n{text}"
        files.append(File.generated(config, place, content=page, inclusion=InclusionLevel.NOT_IN_NAV))
    return files
