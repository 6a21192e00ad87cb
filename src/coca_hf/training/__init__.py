# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Training and fine-tuning on captioned images, on top of transformers' Trainer."""
