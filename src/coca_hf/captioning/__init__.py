# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Many images through one model: inputs in, records out, one bad file never the end of the run.

`sources` and `containers` turn paths into inputs, `workers` read them by `images`, `runner` batches them through a
`tasks` task, and `sinks`, `binary_sinks` and `report` write what comes out. `parts` and `ray_data` share the work.
"""
