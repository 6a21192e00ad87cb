# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The inputs of a run, listed once and cut into blocks, which are what workers are given."""

import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .containers import count_images, iter_images
from .errors import InputError
from .files import digest, error_text
from .hf_datasets import DatasetInputs
from .inputs import Input, is_container, suffix_of
from .paths import iter_paths


BLOCK_SIZE = 512
"""Inputs of a block. It is what a worker is given at a time; a tar shard or a Parquet file is a block of its own,
whatever is in it, for only those who do the work should have to open it."""


# Of a plan; it goes on in a temporary file.
_MOST_BYTES_IN_MEMORY = 1 << 24


class PathInputs:
    """The inputs that `paths` stand for, in their order and duplicates included.

    A folder stands for the images under it, each folder's entries sorted by name; a glob for the paths it matches,
    likewise sorted; a tar shard or a Parquet file for the images in it, of a shard also those with one of
    `member_suffixes`. A path that exists is never read as a glob. What cannot be an image is an `Input` with its
    reason.

    Raises `TypeError` for one path instead of several, whose letters would be taken for paths.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], member_suffixes: Sequence[str] = ()):
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"inputs={paths!r} is one path: give a list of paths, [{paths!r}]")
        self.paths = paths
        self.member_suffixes = tuple(f".{suffix.lstrip('.').lower()}" for suffix in member_suffixes)

    def listed(self) -> Iterator[Input]:
        """With containers unopened."""
        return iter_paths(os.fspath(path) for path in self.paths)

    def __iter__(self) -> Iterator[Input]:
        return (image for item in self.listed() for image in opened(item, 0, self.member_suffixes))


Inputs = PathInputs | DatasetInputs


def as_inputs(inputs: Inputs | Iterable[str | os.PathLike[str]]) -> Inputs:
    """Raises `TypeError` for a single path."""
    return inputs if isinstance(inputs, (PathInputs, DatasetInputs)) else PathInputs(inputs)


def opened(item: Input, start: int = 0, member_suffixes: Sequence[str] = ()) -> Iterator[Input]:
    """The images in a container from number `start` on, anything else as it is."""
    if item.error is not None or not is_container(item.path):
        return iter([item][start:])
    return iter_images(item.path, start, member_suffixes)


@dataclass(frozen=True)
class Block:
    """Some neighbouring inputs.

    They are `paths`, pairs of a path and an error, unopened, or the rows `start` to `stop` of a `dataset`, where None
    is its end. `first` is the number of its first path or row in the run. `name` differs where inputs do.
    """

    number: int
    name: str
    first: int
    paths: Sequence[Sequence[Any]] = ()
    member_suffixes: Sequence[str] = ()
    dataset: dict[str, Any] | None = None
    start: int = 0
    stop: int | None = 0

    @property
    def is_container(self) -> bool:
        return self.dataset is None and any(error is None and is_container(path) for path, error in self.paths)

    @property
    def size(self) -> int | None:
        """How many inputs it has, None where only opening it tells."""
        if self.dataset is not None:
            return None if self.stop is None else self.stop - self.start
        return None if self.is_container else len(self.paths)

    def inputs(self, start: int = 0, bookmark: Any = None) -> Iterator[Input]:
        """From number `start` on. What lies before is not read again where its format or a `bookmark` allows."""
        if self.dataset is not None:
            return DatasetInputs(**self.dataset).rows(self.start + start, self.stop, bookmark)
        if self.is_container:
            ((path, _),) = self.paths
            return iter_images(path, start, self.member_suffixes)
        return (Input(path, error) for path, error in self.paths[start:])

    def names(self) -> Iterator[str]:
        """Of its inputs, without reading them; where its size is not known, of more than there are."""
        if self.dataset is not None:
            dataset = DatasetInputs(**self.dataset)
            stop = self.start + 10**12 if self.stop is None else self.stop
            return (dataset.row_name(number) for number in range(self.start, stop))
        if self.is_container and suffix_of(self.paths[0][0]) == ".parquet":
            return (f"{self.paths[0][0]}[{number}]" for number in range(10**12))
        return (item.path for item in self.inputs())

    def place(self, position: int) -> tuple[int, int]:
        """What tells an input from every other of the run, whatever the size of blocks and batches: the number of its
        path or row in the run, and of a container its number there."""
        return (self.first, position) if self.is_container else (self.first + position, 0)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Block":
        return cls(**json.loads(text))


def make_blocks(inputs: Inputs, size: int = BLOCK_SIZE) -> Iterator[Block]:
    """Raises `InputError` where a dataset cannot be loaded."""
    if isinstance(inputs, DatasetInputs):
        return _dataset_blocks(inputs, size)
    return _path_blocks(inputs, size)


def _dataset_blocks(inputs: DatasetInputs, size: int) -> Iterator[Block]:
    total = inputs.count()
    bounds = [(0, None)] if total is None else [(start, min(start + size, total)) for start in range(0, total, size)]
    for number, (start, stop) in enumerate(bounds):
        name = digest([json.dumps(asdict(inputs)), f"{start}-{stop}"])
        yield Block(number, f"{number:08d}-{name}", start, dataset=asdict(inputs), start=start, stop=stop)


def _path_blocks(inputs: PathInputs, size: int) -> Iterator[Block]:
    first = 0
    for number, paths in enumerate(_groups(inputs.listed(), size)):
        name = f"{number:08d}-{_digest(paths, inputs.member_suffixes)}"
        yield Block(number, name, first, paths, inputs.member_suffixes)
        first += len(paths)


def _groups(items: Iterable[Input], size: int) -> Iterator[list[tuple[str, str | None]]]:
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


def _digest(paths: Sequence[tuple[str, str | None]], member_suffixes: Sequence[str]) -> str:
    names = list(member_suffixes)
    for path, error in paths:
        names.append(path)
        if error is None and is_container(path):
            names.append(_version_of(path))
    return digest(names)


def _version_of(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:  # gone since it was listed
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclass
class Plan:
    """The blocks of a run as they were listed once; many of them in a temporary file, so that memory does not grow.

    `total` is how many inputs there are, None where only reading them all tells; `readable`, whether one of them
    looked as if it could be read; `digest` stands for all of them.
    """

    inputs: Inputs
    block_size: int = BLOCK_SIZE
    count_containers: bool = True
    total: int | None = 0
    readable: bool = False
    digest: str = ""
    number_of_blocks: int = 0
    _file: Any = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        """Lists everything. Raises `InputError`."""
        self._file = tempfile.SpooledTemporaryFile(_MOST_BYTES_IN_MEMORY)  # noqa: SIM115 - lives as long as the plan
        try:
            self.digest = digest(self._list())
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(f"cannot keep the list of inputs in {folder!r}: {error_text(error)}") from None

    def _list(self) -> Iterator[str]:
        for block in make_blocks(self.inputs, self.block_size):
            self._file.write(block.to_json().encode("ascii") + b"\n")
            self.number_of_blocks += 1
            self.readable |= block.dataset is not None or any(error is None for _, error in block.paths)
            size = self._size_of(block)
            self.total = None if size is None or self.total is None else self.total + size
            yield block.name

    def _size_of(self, block: Block) -> int | None:
        if not block.is_container or not self.count_containers:
            return block.size
        return count_images(block.paths[0][0], block.member_suffixes)

    def __iter__(self) -> Iterator[Block]:
        """One iteration does not disturb another, in whatever threads they are."""
        place = 0
        while True:
            with self._lock:
                self._file.seek(place)
                line = self._file.readline()
            if not line:
                return
            place += len(line)
            yield Block.from_json(line)

    def close(self) -> None:
        self._file.close()
