# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`python -m coca_hf.cli`."""

import sys

from . import main


sys.exit(main())
