# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What conversion raises."""

import difflib
from collections.abc import Iterable


class ConversionError(ValueError):
    """A checkpoint or configuration that cannot be converted; the message names the part and what to do about it."""


def refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises for the first of `names` that is not in `known`, naming one that is very like it."""
    known = sorted(known)
    for name in names:
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if nearest:
            raise ConversionError(f"{where} has no field {name!r}; the nearest is {nearest[0]!r}.")
        raise ConversionError(f"{where}.{name} is unknown here and may change the model, so it is refused.")
