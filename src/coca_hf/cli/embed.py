# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf embed`."""

from typing import Annotated

from ..captioning.binary_sinks import check_embedding_output, embedding_sink
from ..captioning.jobs import EmbedJob
from . import options as given
from .console import as_usage_error
from .session import Session, check_shared


def embed(
    paths: given.Paths = None,
    output: Annotated[
        str, given.option("FILE.npy (+ FILE.npy.jsonl) or FILE.parquet.", "FILE", "--output", "-o")
    ] = "",
    model: given.Model = None,
    batch_size: given.BatchSize = 16,
    device: given.Device = "auto",
    dtype: given.DType = "auto",
    quiet: given.Quiet = False,
    help_more: given.HelpMore = False,
    from_file: given.FromFile = None,
    dataset: given.Dataset = None,
    split: given.Split = "train",
    column: given.Column = None,
    streaming: given.Streaming = False,
    workers: given.Workers = None,
    ray: given.Ray = None,
    ray_workers: given.RayWorkers = 1,
    ray_gpus: given.RayGpus = None,
    ray_cpus: given.RayCpus = 1,
) -> None:
    """Embed images: files, folders and quoted globs."""
    if not output:
        raise given.UsageError("Missing option '--output': name a FILE.npy or FILE.parquet")
    given.check_batch_size(batch_size)
    given.check_workers(workers)
    on_ray = given.ray_choice(ray, ray_workers, ray_gpus, ray_cpus)
    check_shared(on_ray, output, streaming=streaming)
    inputs = given.chosen_inputs(paths, from_file, dataset, split, column, streaming)
    job = EmbedJob(given.model_choice(model, device, dtype, captions=False))
    made_with = job.made_with(batch_size)
    with as_usage_error():
        check_embedding_output(output, made_with)
    Session(
        inputs,
        job,
        [lambda: embedding_sink(output, made_with=made_with)],
        batch_size,
        quiet,
        workers,
        products=[output],
        ray=on_ray,
    ).run()
