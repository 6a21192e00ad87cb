# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images with captions, from every kind of data set that people have, as one sequence of records.

    data = open_image_text_data(["photos.jsonl", "more/"])
    len(data), data[3].path, data[3].captions, data[3].open_image()

Records are reached by their number, so that a sampler can take them in any order and a run can go on where it was.
Everything here can be copied to other processes, which then read on their own.

    records        one image with its captions, and what holds them in little memory
    text_files     JSON lines, CSV and TSV, read where they lie
    json_files     COCO's and Karpathy's annotations, lists of records
    folders        images with a .txt beside them
    shards         WebDataset
    tables         Parquet and Hugging Face data sets, streamed ones as well
    source         all of them behind `open_image_text_data`
"""

from .records import CaptionedImage, ImageTextData
from .source import open_image_text_data


__all__ = ["CaptionedImage", "ImageTextData", "open_image_text_data"]
