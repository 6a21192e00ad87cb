# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where the `coca-hf` script starts.

Importing `coca_hf` registers the Auto classes, for which it loads torch and transformers. The command's help does not
need them and should not wait for them. So `coca_hf` does not register where it finds this module loaded, and the
command registers when it loads a model.
"""


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    from coca_hf.cli import main

    return main()
