# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An index is made, continued and brought up to date by one function, which does what is left to do.

What is on the disk is compared with what the index holds: a file whose size and time are as they were costs nothing; a
new path whose content the index knows, because the file was moved, copied or only touched, costs reading two pieces of
it; all else goes through the model, as a run of `batch_inference` whose record log lies in the index's folder.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..batch_inference.engine import run
from ..batch_inference.files import remove_asides, write_whole
from ..batch_inference.inputs import Record, is_container
from ..batch_inference.jobs import CaptionJob, CaptionOptions, MadeWith
from ..batch_inference.models import ModelChoice, check_model, load_config, load_model, load_processor
from ..batch_inference.outputs import Output
from ..batch_inference.plan import PathInputs
from ..batch_inference.progress import Progress
from ..batch_inference.record_log import RecordLog
from ..batch_inference.sharing import RayOptions
from ..batch_inference.summary import Summary
from .calibration import calibrate
from .errors import SearchError
from .folder import Contents, IndexFolder, Photo


logger = logging.getLogger(__name__)

# Of a file, its beginning and its end, so many bytes of each, tell it from all others of its size.
_PIECE = 1 << 16

# Rows that are copied from the old file to the new one at a time.
_ROWS = 1 << 14


@dataclass
class IndexSummary:
    """
    What became of a call of `build_index`.

    Of `photos` in the index now, `kept` were there, `moved` were there under another name, and `added` are new, copies
    of others, or have changed. `removed` are gone from the disk. `failed` files hold no readable image; `failures`
    names the first 1,000. `run` is the summary of the run that the added ones took, None where nothing was to do.
    """

    photos: int = 0
    added: int = 0
    kept: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0
    failures: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    run: Summary | None = None


def build_index(
    paths: Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    choice: ModelChoice | None = None,
    *,
    num_beams: int | None = None,
    member_suffixes: Sequence[str] = (),
    batch_size: int = 16,
    workers: int | None = None,
    ray: RayOptions | None = None,
    progress: Progress | bool = True,
    say: Callable[[str], None] = logger.info,
    on_failure: Callable[[Record], None] | None = None,
) -> IndexSummary:
    """
    Makes the index in `folder` of the images that `paths` stand for, or brings it up to date.

    The same call continues what ended early. Photos of the index that are not among `paths` stay in it as long as
    their files are there.

    Args:
        paths: images, folders, globs, shards and tables, as `coca_hf.batch_inference.run` takes them.
        choice: the model, by default the bundled one. It needs a decoder: captions are half of an index.
        num_beams: of the captions; by default as the model's own settings say. 1 is several times faster.

    Raises:
        SearchError: The folder holds something else, or an index of another model or of other captions.
        ModelError: The model cannot be loaded, or gives no captions or no single vector.
        OutputError, InputError, RunInterrupted: As `run` does.
    """
    started = time.monotonic()
    choice, name = _chosen(choice)
    job = _KeptJob(CaptionJob(choice, CaptionOptions(num_beams=num_beams), embeddings=True))
    made_with = job.made_with()
    place = IndexFolder(folder)
    place.check_is_ours()
    inputs = PathInputs(paths, member_suffixes)
    with place.locked():
        work = _Work(place, job, made_with, name)
        comparison = work.compare(inputs)
        if work.interrupted and work.pending() != comparison.todo:
            # What was done counts, though something else is to be done by now.
            work.commit(work.compare_nothing(), finished=False)
            comparison = work.compare(inputs)
        summary = IndexSummary(kept=comparison.kept, moved=comparison.moved, removed=comparison.removed)
        if comparison.todo:
            work.begin(comparison.todo)
            summary.run = run(
                PathInputs([*comparison.todo], member_suffixes),
                job,  # type: ignore[arg-type]
                work.outputs,
                batch_size=batch_size,
                workers=workers,
                ray=ray,
                progress=progress,
                say=say,
                on_failure=on_failure,
            )
            summary.failed, summary.failures = summary.run.failed, summary.run.failures
        summary.photos, embedded = work.commit(comparison, finished=True)
        summary.added = embedded + comparison.copied
    summary.seconds = time.monotonic() - started
    return summary


def _chosen(choice: ModelChoice | None) -> tuple[ModelChoice, str]:
    """-> the choice, and the name by which the index is to find the model again."""
    import coca_hf

    bundled = str(coca_hf.bundled_model())
    choice = choice or ModelChoice(bundled)
    check_model(choice.name, captions=True)
    if os.path.realpath(choice.name) == os.path.realpath(bundled):
        return choice, ""
    return choice, os.path.abspath(choice.name) if os.path.isdir(choice.name) else choice.name


@dataclass
class _KeptJob:
    """The job, and its task once it is loaded here: its model embeds the texts that the limits are found by."""

    job: CaptionJob
    task: Any = None

    @property
    def makes(self) -> frozenset[str]:
        return self.job.makes

    def made_with(self) -> MadeWith:
        return self.job.made_with()

    def load(self) -> Any:
        from ..batch_inference.tasks import require_one_vector

        require_one_vector(self.job.choice, load_config(self.job.choice))
        self.task = self.job.load()
        return self.task

    def __reduce__(self) -> Any:
        # A worker elsewhere loads the model itself.
        return _KeptJob, (self.job,)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """-> float32 (texts, dimensions)"""
        from ..batch_inference.tasks import text_embeds

        if self.task is not None:
            return text_embeds(self.task.model, self.task.processor, texts).cpu().numpy()
        processor, model = load_processor(self.job.choice), load_model(self.job.choice, "towers")
        return text_embeds(model, processor, texts).cpu().numpy()


@dataclass(frozen=True)
class _State:
    """Of a file on the disk. Its content is read where there is a reason to."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> "_State | None":
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        return cls(status.st_size, status.st_mtime_ns)


def _content(path: str) -> str:
    """A digest of the size and the ends of a file, "" where it cannot be read."""
    digest = hashlib.blake2b(digest_size=12)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(str(size).encode())
            digest.update(file.read(_PIECE))
            file.seek(max(size - _PIECE, 0))
            digest.update(file.read(_PIECE))
    except OSError:
        return ""
    return digest.hexdigest()


@dataclass
class _Comparison:
    """Of the disk with an index: rows to keep, by their numbers and as they are now, and files to embed."""

    rows: list[int] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    todo: dict[str, _State | None] = field(default_factory=dict)
    kept: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0

    def take(self, rows: Iterable[tuple[int, Photo]]) -> None:
        for row, photo in rows:
            self.rows.append(row)
            self.photos.append(photo)


class _Work:
    """One index, while it is changed."""

    def __init__(self, folder: IndexFolder, job: _KeptJob, made_with: MadeWith, model: str):
        self.folder = folder
        self.job = job
        self.made_with = made_with
        self.contents = Contents(model, self.made_with, np.empty((0, 0), np.float32))
        self._read()
        adding = Path(folder.adding)
        self.pending_path = str(adding / "pending.json")
        self.records_path = str(adding / "records.jsonl")
        self.embeddings_path = str(adding / "embeddings.npy")
        self.outputs = [Output(self.records_path), Output(self.embeddings_path, "embeddings")]
        self.log = RecordLog(f"{self.records_path}.records", folder.path)

    def _read(self) -> None:
        if self.folder.exists:
            contents = self.folder.read()
            names = {**contents.made_with, **self.made_with}
            differing = [name for name in names if contents.made_with.get(name) != self.made_with.get(name)]
            if differing:
                spoken = " and ".join(name.replace("_", "-") for name in differing)
                raise SearchError(
                    f"the index {self.folder.path!r} was made with another {spoken}. Name another folder, or remove "
                    "it first"
                )
            self.contents = replace(contents, model=self.contents.model)

    # --- what is to be done ---

    def compare(self, inputs: PathInputs) -> _Comparison:
        photos = self.contents.photos
        by_source: dict[str, list[int]] = {}
        by_content: dict[str, str] = {}
        for row, photo in enumerate(photos):
            by_source.setdefault(photo.source, []).append(row)
            by_content.setdefault(photo.content, photo.source)
        sizes = {photo.size for photo in photos}
        found = _Comparison()
        listed: set[str] = set()
        taken: set[str] = set()
        for source in _sources(inputs):
            if source in listed:
                continue
            listed.add(source)
            state = _State.of(source)
            same = self._same(source, state, by_source, by_content, sizes)
            if same is None:
                found.todo[source] = state
                continue
            before, content_state = same
            rows = [(row, _renamed(photos[row], source, content_state)) for row in by_source[before]]
            found.take(rows)
            is_moved = before != source and before not in taken and not os.path.lexists(before)
            taken.add(before)
            if is_moved:
                found.moved += len(rows)
            elif source in by_source:
                found.kept += len(rows)
            else:
                found.copied += len(rows)
        self._take_others(found, photos, by_source, listed, taken)
        return found

    def _same(
        self,
        source: str,
        state: _State | None,
        by_source: dict[str, list[int]],
        by_content: dict[str, str],
        sizes: set[int],
    ) -> tuple[str, _State] | None:
        """The source in the index that has what is in this file, None where nothing has."""
        if state is None:
            return None
        if source in by_source:
            known = self.contents.photos[by_source[source][0]]
            if (known.size, known.mtime_ns) == (state.size, state.mtime_ns):
                return source, state
        if state.size not in sizes:
            return None
        before = by_content.get(_content(source))
        return None if before is None else (before, state)

    def _take_others(
        self,
        found: _Comparison,
        photos: list[Photo],
        by_source: dict[str, list[int]],
        listed: set[str],
        taken: set[str],
    ) -> None:
        """Photos that were not named stay while their files do; those that were named and changed are made anew."""
        for source, rows in by_source.items():
            if source in listed:
                continue
            if os.path.lexists(source):
                found.take((row, photos[row]) for row in rows)
                found.kept += len(rows)
            elif source not in taken:
                found.removed += len(rows)

    def compare_nothing(self) -> _Comparison:
        """Everything stays as it is, and what was begun is to be added."""
        photos = self.contents.photos
        return _Comparison(list(range(len(photos))), list(photos), self.pending())

    # --- what is being done ---

    @property
    def interrupted(self) -> bool:
        return os.path.exists(self.pending_path)

    def pending(self) -> dict[str, _State | None]:
        content = json.loads(Path(self.pending_path).read_text("ascii"))
        return {path: None if state is None else _State(*state) for path, state in content.items()}

    def begin(self, todo: dict[str, _State | None]) -> None:
        if self.interrupted:
            return
        shutil.rmtree(self.folder.adding, ignore_errors=True)
        os.makedirs(self.folder.adding)
        states = {path: state and (state.size, state.mtime_ns) for path, state in todo.items()}
        write_whole(self.pending_path, json.dumps(states).encode("ascii"))

    # --- what was done ---

    def commit(self, comparison: _Comparison, *, finished: bool) -> tuple[int, int]:
        """The index becomes what `comparison` keeps and what was added -> photos in it, embedded ones among them."""
        new: dict[str, tuple[Photo, np.ndarray]] = {}
        if self.interrupted:
            self.log.check(self.made_with)
            for photo, embedding in self._added(comparison.todo, finished):
                new.setdefault(photo.path, (photo, embedding))
        known = set(new)
        kept = [number for number, photo in enumerate(comparison.photos) if photo.path not in known]
        photos = [comparison.photos[number] for number in kept] + [photo for photo, _ in new.values()]
        is_changed = [photo.line().rstrip() for photo in photos] != list(self.contents.lines)
        if is_changed or not self.folder.exists:
            rows = [comparison.rows[number] for number in kept]
            self._write(photos, rows, [embedding for _, embedding in new.values()])
        if os.path.isdir(self.folder.adding):
            shutil.rmtree(self.folder.adding, ignore_errors=True)
        return len(photos), len(new)

    def _write(self, photos: list[Photo], rows: list[int], added: list[np.ndarray]) -> None:
        old = self.contents.embeddings
        dimensions = len(added[0]) if added else old.shape[1]
        pieces = [old[rows[start : start + _ROWS]] for start in range(0, len(rows), _ROWS)]
        if added:
            pieces.append(np.stack(added))
        calibration = self.contents.calibration
        if photos and calibration.is_outdated(len(photos)):
            captions = [photo.caption for photo in photos]
            calibration = calibrate(captions, np.concatenate(pieces), self.job.embed_texts)
        shape = np.empty((0, dimensions), np.float32)
        self.folder.write(replace(self.contents, embeddings=shape, calibration=calibration), photos, pieces)
        self._read()

    def _added(self, todo: dict[str, _State | None], finished: bool) -> Iterator[tuple[Photo, np.ndarray]]:
        """What became of `todo`. Of an unfinished run whole files only, for a shard has more photos than it tells."""
        containers = [path for path in todo if is_container(path)]
        contents: dict[str, str] = {}
        for record in self._records():
            if record.error is not None or record.embedding is None:
                continue
            source = record.image if record.image in todo else _container_of(record.image, containers)
            state = todo.get(source) if source is not None else None
            # A file that has changed while it was read is read again the next time.
            if source is None or state is None or _State.of(source) != state:
                continue
            if not finished and is_container(source):
                continue
            if source not in contents:
                contents[source] = _content(source)
            caption = str(record.fields["caption"])
            photo = Photo(record.image, caption, source, state.size, state.mtime_ns, contents[source])
            yield photo, record.embedding

    def _records(self) -> Iterator[Record]:
        if self.log.exists:
            yield from self.log.every_record()
            return
        if not os.path.exists(self.embeddings_path):
            return
        remove_asides(self.embeddings_path)
        embeddings = iter(np.load(self.embeddings_path))
        with open(self.records_path, "rb") as lines:
            for line in map(json.loads, lines):
                error = line.pop("error", None)
                yield Record(line.pop("image"), line, error, None if error is not None else next(embeddings))


def _sources(inputs: PathInputs) -> Iterator[str]:
    """The files that the inputs are in, by their full names: an index is searched from other folders, too."""
    for item in inputs.listed():
        # What is not there stays as it was typed, for messages to say it so.
        yield item.path if item.error is not None else os.path.abspath(item.path)


def _renamed(photo: Photo, source: str, state: _State) -> Photo:
    """The same photo where its file is now."""
    path = source + photo.path[len(photo.source) :]
    return replace(photo, path=path, source=source, size=state.size, mtime_ns=state.mtime_ns)


def _container_of(path: str, containers: Sequence[str]) -> str | None:
    return next((each for each in containers if path.startswith((f"{each}/", f"{each}["))), None)
