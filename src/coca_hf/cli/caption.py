# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf caption`."""

from collections.abc import Callable
from typing import Annotated, Any

from ..captioning.binary_sinks import (
    CaptionTableSink,
    ShardSink,
    check_caption_output,
    check_embedding_output,
    embedding_sink,
)
from ..captioning.decoding import CaptionOptions
from ..captioning.jobs import CaptionJob
from ..captioning.notes import MadeWith
from ..captioning.report import ReportSink, check_report, report_picture
from ..captioning.sinks import Sink
from . import options as given
from .console import UsageError, as_usage_error
from .options import option
from .session import Session, check_shared, files, record_sink


def caption(
    paths: given.Paths = None,
    model: given.Model = None,
    output: Annotated[
        str | None, option("Records to a .jsonl, .parquet or .tar; - for stdout.", "FILE", "--output", "-o")
    ] = None,
    embeddings: Annotated[str | None, option("Embeddings as well, to a .npy or .parquet.", "FILE")] = None,
    report: Annotated[str | None, option("Also make a page of pictures and captions.", "FILE.html")] = None,
    prompt: Annotated[str | None, option("Begin every caption with these words.", "TEXT")] = None,
    max_new_tokens: Annotated[int | None, option("Stop after N tokens.", "N")] = None,
    num_beams: Annotated[int | None, option("Beam search with N beams.", "N")] = None,
    num_beam_groups: Annotated[int | None, option("Diverse beam search, beams in N groups.", "N")] = None,
    top_p: Annotated[float | None, option("Sample from the likeliest, P in all (0 to 1).", "P")] = None,
    top_k: Annotated[int | None, option("Sample from the K likeliest tokens.", "K")] = None,
    temperature: Annotated[float | None, option("Sample, more boldly above 1.", "T")] = None,
    seed: Annotated[int | None, option("Make sampling repeatable.", "N")] = None,
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
    """Caption images: files, folders and quoted globs."""
    given.check_batch_size(batch_size)
    given.check_workers(workers)
    on_ray = given.ray_choice(ray, ray_workers, ray_gpus, ray_cpus)
    check_shared(on_ray, output, report, streaming=streaming)
    with as_usage_error():
        options = CaptionOptions(
            prompt=prompt,
            num_beams=num_beams,
            num_beam_groups=num_beam_groups,
            max_new_tokens=max_new_tokens,
            top_p=top_p,
            top_k=top_k,
            temperature=temperature,
            seed=seed,
        )
    inputs = given.chosen_inputs(paths, from_file, dataset, split, column, streaming)
    choice = given.model_choice(model, device, dtype, captions=True)
    job = CaptionJob(choice, options, embeddings is not None)
    made_with = job.made_with(batch_size)
    with as_usage_error():
        _check_outputs(output, embeddings, report, made_with)
    Session(
        inputs,
        job,
        _sinks(output, embeddings, report, _facts(model, options), made_with),
        batch_size,
        quiet,
        workers,
        places=files(output) if _is_lines(output) else [],
        products=[path for path in (None if _is_lines(output) else output, embeddings, report) if path is not None],
        picture=None if report is None else report_picture,
        ray=on_ray,
    ).run()


def _check_outputs(output: str | None, embeddings: str | None, report: str | None, made_with: MadeWith) -> None:
    if output is not None:
        check_caption_output(output, made_with)
    if embeddings is not None:
        check_embedding_output(embeddings, made_with)
        if embeddings == output:
            raise UsageError(f"--output and --embeddings are both {output!r}")
    if report is not None:
        check_report(report)


def _sinks(
    output: str | None, embeddings: str | None, report: str | None, facts: dict[str, str], made_with: MadeWith
) -> list[Callable[[], Sink]]:
    text: Callable[[Any], str] = str if embeddings is None else lambda result: result.caption
    sinks: list[Callable[[], Sink]] = [lambda: _caption_sink(output, text, made_with)]
    if embeddings is not None:
        sinks.append(lambda: embedding_sink(embeddings, lambda result: result.embedding, made_with))
    if report is not None:
        # A page alone is made anew each time: there are no records that say what was in it.
        sinks.append(lambda: ReportSink(report, facts, text, made_with if files(output) else None))
    return sinks


def _is_lines(output: str | None) -> bool:
    return output is None or not output.lower().endswith((".parquet", ".tar"))


def _caption_sink(output: str | None, text: Callable[[Any], str], made_with: MadeWith) -> Sink:
    if output is not None and output.lower().endswith(".parquet"):
        return CaptionTableSink(output, text, made_with)
    if output is not None and output.lower().endswith(".tar"):
        return ShardSink(output, text, made_with)
    return record_sink(output, text, lambda result: {"caption": text(result)}, made_with)


def _facts(model: str | None, options: CaptionOptions) -> dict[str, str]:
    """What the report says of the run."""
    chosen = {name.replace("_", " ").capitalize(): str(value) for name, value in options.given().items()}
    return {"Model": model or "bundled", **chosen}
