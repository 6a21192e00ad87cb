# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What publishing raises."""


class PublishingError(ValueError):
    """A folder that cannot be published, or a Hub that does not take it; the message names both and what to do."""
