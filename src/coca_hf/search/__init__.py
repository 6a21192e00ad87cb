# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Search in one's own photos, by words and by pictures.

    from coca_hf.search import Index, build_index

    build_index(["photos/"], "photos.index")
    for hit in Index.open("photos.index").search("two red circles"):
        print(hit.score, hit.path, hit.caption)

The modules: `folder` is what an index is on the disk, `building` makes it and brings it up to date, `calibration`
finds out from which similarity on a photo matches, `index` searches, and `results` shows what was found.
"""

from .building import IndexSummary, build_index
from .errors import SearchError
from .index import Hit, Index


__all__ = ["Hit", "Index", "IndexSummary", "SearchError", "build_index"]
