# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Exported models, run by a runtime other than PyTorch. `coca_hf.exporting` makes their folders.

folder      what an exported folder holds, and whether it is one
programs    one component of it, loaded by its runtime
model       all of it together, with `generate` and the features of a CoCa model
"""
