# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run that several processes or machines share: blocks of inputs, a part file for each, one output of them all.

A part appears when its block is done, under a name that says which inputs it is of. Whoever does a block looks first
whether it is there, so that a run that ended anywhere goes on with the blocks that are missing, with any number of
processes. All of them see the same folder.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from .containers import DatasetInputs
from .errors import InputError, OutputError
from .runner import Clock, Record, Task, run
from .sinks import digest, json_line
from .sources import Input, Inputs, PathInputs, error_text, is_container, iter_paths, opened


BLOCK_SIZE = 512
"""Inputs of a block. It is what a lost machine costs, and what a waiting one is given; a tar shard or a Parquet file
is a block of its own, whatever is in it, for only those who do the work should have to open it."""

# So that no two batches of a run are sampled alike, however many images are in a block.
_BLOCKS_APART = 1 << 20


@dataclass(frozen=True)
class Block:
    """Some neighbouring inputs: pairs of a path and an error, unopened, or `stop - start` rows of a dataset."""

    number: int
    name: str
    paths: list[tuple[str, str | None]] = field(default_factory=list)
    dataset: dict[str, Any] | None = None
    start: int = 0
    stop: int = 0

    def inputs(self) -> Iterator[Input]:
        if self.dataset is not None:
            return DatasetInputs(**self.dataset).rows(self.start, self.stop)
        return (item for path, error in self.paths for item in opened(Input(path, error)))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Block":
        return cls(**json.loads(text))


def make_blocks(inputs: Inputs, size: int = BLOCK_SIZE) -> Iterator[Block]:
    """Raises `InputError` where the inputs cannot be counted beforehand."""
    if isinstance(inputs, DatasetInputs):
        yield from _dataset_blocks(inputs, size)
    elif isinstance(inputs, PathInputs):
        for number, paths in enumerate(_path_groups(iter_paths(inputs.paths), size)):
            yield Block(number, f"{number:08d}-{_digest(paths)}", paths)
    else:
        raise InputError(f"inputs of the type {type(inputs).__name__} cannot be shared")


def _dataset_blocks(inputs: DatasetInputs, size: int) -> Iterator[Block]:
    total = inputs.count().total
    if total is None:
        raise InputError("the rows of a dataset that is streamed are not known, so they cannot be shared")
    for number, start in enumerate(range(0, total, size)):
        stop = min(start + size, total)
        name = digest([json.dumps(asdict(inputs)), f"{start}-{stop}"])
        yield Block(number, f"{number:08d}-{name}", [], asdict(inputs), start, stop)


def _path_groups(items: Iterable[Input], size: int) -> Iterator[list[tuple[str, str | None]]]:
    group: list[tuple[str, str | None]] = []
    for item in items:
        alone = item.error is None and is_container(item.path)
        if group and (alone or len(group) == size):
            yield group
            group = []
        group.append((item.path, item.error))
        if alone:
            yield group
            group = []
    if group:
        yield group


def _digest(paths: Sequence[tuple[str, str | None]]) -> str:
    names = []
    for path, error in paths:
        names.append(path)
        if error is None and is_container(path):
            status = os.stat(path)
            names.append(f"{status.st_size} {status.st_mtime_ns}")
    return digest(names)


@dataclass(frozen=True)
class Part:
    """What is known of a block that is done."""

    number: int
    records: int
    failed: int


class Parts:
    """The folder of the parts. Raises `OutputError`."""

    def __init__(self, folder: str):
        self.folder = folder

    def make(self) -> None:
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder!r}: {error_text(error)}") from None

    def done(self, block: Block) -> Part | None:
        """None where it is still to be done."""
        try:
            with open(self._lines_path(block), "rb") as file:
                errors = [b'"error": ' in line for line in file]
        except FileNotFoundError:
            return None
        return Part(block.number, len(errors), sum(errors))

    def do(self, block: Block, task: Task, batch_size: int, workers: int, clock: Clock | None = None) -> Part:
        """What `task` makes of the images of `block`, unless that is there already."""
        part = self.done(block)
        if part is not None:
            return part
        seek = getattr(task, "seek", None)
        if seek:
            seek(block.number * _BLOCKS_APART)
        # Another process may be at the same block, where this one was taken for lost.
        mark = uuid.uuid4().hex[:12]
        records = failed = 0
        with ExitStack() as stack:
            lines_aside, vectors_aside = (os.path.join(self.folder, f".{mark}.{kind}") for kind in ("jsonl", "f32"))
            try:
                lines = stack.enter_context(open(lines_aside, "w", encoding="ascii"))
                vectors = stack.enter_context(open(vectors_aside, "wb"))
                for group in run(block.inputs(), task, batch_size, workers=workers, clock=clock):
                    for record in group:
                        fields, vector = split_result(record.result)
                        lines.write(json_line(record, fields))
                        vectors.write(vector)
                        records += 1
                        failed += record.error is not None
                lines.close()
                vectors.close()
                os.replace(vectors_aside, self._vectors_path(block))
                os.replace(lines_aside, self._lines_path(block))
            except OSError as error:
                raise OutputError(f"cannot write to {self.folder!r}: {error_text(error)}") from None
            finally:
                for path in (lines_aside, vectors_aside):
                    if os.path.exists(path):
                        os.unlink(path)
        return Part(block.number, records, failed)

    def read(self, block: Block) -> Iterator[Record]:
        """The records of a block that is done."""
        with open(self._lines_path(block), "rb") as lines, open(self._vectors_path(block), "rb") as vectors:
            for line, item in zip(lines, block.inputs(), strict=True):
                fields = json.loads(line)
                image, error = fields.pop("image"), fields.pop("error", None)
                result = None if error is not None else join_result(fields, vectors.read)
                yield Record(image, result, error, content=item.content)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lines_path(self, block: Block) -> str:
        return os.path.join(self.folder, f"{block.name}.jsonl")

    def _vectors_path(self, block: Block) -> str:
        return os.path.join(self.folder, f"{block.name}.f32")


def split_result(result: Any) -> tuple[dict[str, Any], bytes]:
    """A caption, an embedding or both -> what goes into a line, and what stands beside it as float32."""
    if result is None:
        return {}, b""
    if isinstance(result, str):
        return {"caption": result}, b""
    if isinstance(result, tuple):
        caption, vector = result
        return {"caption": caption, "size": len(vector)}, vector.astype("<f4").tobytes()
    return {"size": len(result)}, result.astype("<f4").tobytes()


def join_result(fields: dict[str, Any], read: Any) -> Any:
    """The result that `split_result` took apart."""
    import numpy as np

    if "size" not in fields:
        return fields["caption"]
    vector = np.frombuffer(read(4 * fields["size"]), dtype="<f4")
    if "caption" not in fields:
        return vector
    from .tasks import Captioned

    return Captioned(fields["caption"], vector)
