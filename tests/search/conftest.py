# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A tiny model, an album to index, and what went through the model."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coca_hf.batch_inference import ModelChoice
from coca_hf.batch_inference.tasks import CaptionTask
from coca_hf.search import IndexSummary, build_index
from pictures import picture
from tiny_folder import save_tiny_folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return str(save_tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Seven pictures, one of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number in range(7):
        picture(number).save(folder / ("below" if number == 3 else ".") / f"{number}.png")
    return folder


@pytest.fixture
def build(tmp_path, model) -> Callable[..., IndexSummary]:
    """Makes `index` of paths, with nothing on the screen."""

    def call(*paths: Path, **options) -> IndexSummary:
        options = {"progress": False, "workers": 0, "batch_size": 2, **options}
        return build_index(paths, tmp_path / "index", ModelChoice(model), **options)

    return call


class Work:
    """How many images the captioner was given; it is interrupted before the batch that would be one too many."""

    def __init__(self) -> None:
        self.images = 0
        self.limit = 10**9

    def since(self) -> int:
        images, self.images = self.images, 0
        return images


@pytest.fixture
def work(monkeypatch) -> Work:
    found = Work()
    process = CaptionTask.process

    def counted(self, prepared, places):
        if found.images + len(prepared) > found.limit:
            raise KeyboardInterrupt
        found.images += len(prepared)
        return process(self, prepared, places)

    monkeypatch.setattr(CaptionTask, "process", counted)
    return found


@pytest.fixture
def later() -> Callable[[Path], None]:
    """Gives a file another time, as if somebody had written it anew."""

    def touch(path: Path) -> None:
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))

    return touch
