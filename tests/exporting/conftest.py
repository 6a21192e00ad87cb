# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The bundled model, exported once."""

from pathlib import Path

import pytest

import coca_hf


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    return coca_hf.export(coca_hf.bundled_model(), tmp_path_factory.mktemp("exported") / "onnx")
