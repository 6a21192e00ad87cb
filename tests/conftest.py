# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Settings for the whole suite: no network, and one thread a test process, so that `-n 2` means two cores."""

import os
import shutil

import pytest
import torch


# huggingface_hub reads the first when it is imported, which happens only after this file has run.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)

# Not tests of this project: transformers' own, and stand-ins for some of its modules.
collect_ignore = ["transformers_tests"]

# What takes many seconds to set up, so that all tests that ask for it run in the same test process.
COSTLY_FIXTURES = {
    "address",
    "answers",
    "conversions",
    "documented",
    "documented_model",
    "exported",
    "full_size",
    "outcomes",
    "program",
    "program_of_the_library",
    "published",
    "pushed",
    "saved",
}

TRANSFORMERS_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_tensor_parallel_test",
    "is_training_test",
    "order",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes seconds, and the release of transformers does not matter to it")
    for name in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{name}: set by transformers' own tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in sorted(COSTLY_FIXTURES.intersection(getattr(item, "fixturenames", ()))):
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def browser():
    """Chromium, once for all pages: Playwright allows one at a time in a process."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: set CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright to open the page with")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
