# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Many images through one model: inputs in, records out, and one bad file is never the end of the run.

    from coca_hf.batch_inference import CaptionJob, ModelChoice, run

    summary = run(["photos/"], CaptionJob(ModelChoice("my/model")), ["captions.jsonl"])
    print(summary.images, summary.failed, summary.failures)

The same call continues a run that ended early. The modules, in the order in which an image meets them:

    inputs         what an input and a record are
    paths          files, folders, globs and lists of them
    containers     tar shards and Parquet tables; `hf_datasets`: Hugging Face datasets
    plan           the inputs of a run, listed once and cut into blocks
    images         one file into one image; `reading`: in processes of their own, ahead of the model
    jobs           what is to be done; `tasks`: doing it; `models`: loading what does it; `sampling`: random choices
    batches        images into batches, results into records
    record_log     the records that are done, on disk, whole blocks or nothing; `log_writing`: into it as they come
    place          what a run keeps beside its outputs; `earlier_lines`: taking over an output that is there
    outputs        from records to a file, a function and a row for each suffix; `report`: the page
    engine         all of it together, alone or as one of several processes (`sharing`); `ray_data`: on a Ray cluster
    summary        what became of it
"""

from .engine import run
from .hf_datasets import DatasetInputs
from .jobs import CaptionJob, CaptionOptions, ClassifyJob, EmbedJob
from .models import ModelChoice
from .outputs import Output
from .plan import PathInputs
from .sharing import RayOptions
from .summary import Summary


__all__ = [
    "CaptionJob",
    "CaptionOptions",
    "ClassifyJob",
    "DatasetInputs",
    "EmbedJob",
    "ModelChoice",
    "Output",
    "PathInputs",
    "RayOptions",
    "Summary",
    "run",
]
