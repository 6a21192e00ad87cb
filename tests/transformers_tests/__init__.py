# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The installed transformers release's own test modules, importable as `transformers_tests.test_modeling_common` etc.

Its wheel has none and its source archive lacks some that the others import. The package therefore has two places: the
fetched archive first, then this folder, whose modules stand in for exactly the missing ones.
"""

import sys
from pathlib import Path

from fetch_transformers_tests import folder_of_tests


_fetched = folder_of_tests()
if not (_fetched / "__init__.py").is_file():
    raise FileNotFoundError(
        f"transformers' own tests are not at {_fetched}: run `python scripts/checks/fetch_transformers_tests.py` first"
    )
__path__.insert(0, str(_fetched))
# Some of them import a module of transformers' `utils/` folder, which no archive carries, by its bare name.
sys.path.append(str(Path(__file__).parent / "utils"))
