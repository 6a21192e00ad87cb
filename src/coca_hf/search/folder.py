# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An index on disk: a folder of three files of common kinds, which change as one.

    index.json          which files the other two are, which model made them, and by what "nothing matches" is decided
    photos-N.jsonl      a line of JSON for each photo, in the order of the rows
    embeddings-N.npy    float32 (photos, dimensions), each row of length 1

N grows with each change. Whoever writes makes new files of both kinds beside those that are there; the index becomes
the new one when `index.json` is replaced, at once and as a whole. `adding/` is there while photos are added.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..batch_inference.files import AsideFile, error_text, lock_file, write_whole
from ..batch_inference.jobs import MadeWith
from .calibration import Calibration
from .errors import SearchError


FORMAT = "coca-hf index"
VERSION = 1

_MANIFEST = "index.json"
_NUMBERED = re.compile(r"(photos|embeddings)-(\d+)\.(jsonl|npy)")


_ANEW = "remove it and make it anew with coca-hf index"


@dataclass(frozen=True)
class Photo:
    """
    A row of an index.

    `path` is absolute. `source` is the file that holds the photo: the same path, or that of a shard or a table. `size`
    in bytes, `mtime_ns` and `content`, a digest, are the source's, as it was when the photo was embedded.
    """

    path: str
    caption: str
    source: str
    size: int
    mtime_ns: int
    content: str

    def line(self) -> bytes:
        """ASCII, for names that are not UTF-8."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"


@dataclass
class Contents:
    """
    What an index holds.

    `embeddings` is float32 (photos, dimensions), left on the disk until it is read. `model` is the name that the model
    was given by, "" for the bundled one, and `made_with` all that decides what a row holds.
    """

    model: str
    made_with: MadeWith
    embeddings: np.ndarray
    calibration: Calibration = field(default_factory=Calibration)
    lines: Sequence[bytes] = ()
    number: int = 0

    @cached_property
    def photos(self) -> list[Photo]:
        return [self.photo(row) for row in range(len(self.lines))]

    def photo(self, row: int) -> Photo:
        try:
            return Photo(**json.loads(self.lines[row]))
        except (ValueError, TypeError):
            raise SearchError(f"the index is damaged, what it has of photo {row + 1:,} is none: {_ANEW}") from None


class IndexFolder:
    """Reads and writes the files. Methods raise `SearchError` where something else is there, `OutputError` where the
    disk does not do what is asked of it."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.adding = os.path.join(self.path, "adding")

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def check_is_ours(self) -> None:
        """Or nothing at all, or an empty folder. Changes nothing."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            parent = os.path.dirname(os.path.abspath(self.path))
            if not os.path.isdir(parent):
                raise SearchError(f"cannot make the index {self.path!r}: there is no folder {parent!r}") from None
            return
        except NotADirectoryError:
            raise SearchError(f"{self.path!r} is a file, not the folder of an index. Name another one") from None
        except OSError as error:
            raise SearchError(f"cannot read {self.path!r}: {error_text(error)}") from None
        if _MANIFEST in names:
            self._manifest()
        elif set(names) - {"lock", "adding"}:
            raise SearchError(f"{self.path!r} holds other things than an index. Name another folder for it")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder where there is none. One process at a time changes an index."""
        try:
            os.makedirs(self.path, exist_ok=True)
            descriptor = lock_file(self._file("lock"))
        except BlockingIOError:
            raise SearchError(f"another process is changing the index {self.path!r}. Wait for it") from None
        except OSError as error:
            raise SearchError(f"cannot write to the index {self.path!r}: {error_text(error)}") from None
        try:
            yield
        finally:
            os.close(descriptor)

    @property
    def exists(self) -> bool:
        return os.path.exists(self._file(_MANIFEST))

    def read(self) -> Contents:
        """The index as it is."""
        for _ in range(3):
            manifest = self._manifest()
            try:
                return self._contents(manifest)
            except FileNotFoundError as error:  # replaced in between, or lost
                missing = str(error.filename)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise SearchError(f"the index {self.path!r} is damaged, so is its {_MANIFEST}: {_ANEW}") from None
        raise SearchError(f"the index {self.path!r} is damaged, {os.path.basename(missing)} is missing: {_ANEW}")

    def _manifest(self) -> dict[str, Any]:
        if not self.exists:
            kind = "not an index" if os.path.lexists(self.path) else "not there"
            raise SearchError(f"{self.path!r} is {kind}. 'coca-hf index PATH --output {self.path}' makes one")
        try:
            manifest = json.loads(Path(self._file(_MANIFEST)).read_text("utf-8"))
        except OSError as error:
            raise SearchError(f"cannot read {self._file(_MANIFEST)!r}: {error_text(error)}") from None
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise SearchError(f"{self._file(_MANIFEST)!r} is not that of an index")
        if manifest.get("version") != VERSION:
            raise SearchError(
                f"the index {self.path!r} has version {manifest.get('version')}, and this release of coca-hf reads "
                f"version {VERSION}: {_ANEW}"
            )
        return manifest

    def _contents(self, manifest: dict[str, Any]) -> Contents:
        lines = Path(self._file(manifest["photos"])).read_bytes().splitlines()
        try:
            embeddings = np.load(self._file(manifest["embeddings"]), mmap_mode="r" if lines else None)
        except ValueError:
            embeddings = np.empty((0, 0), np.float32)
        if embeddings.dtype != np.float32 or embeddings.shape != (len(lines), manifest["dimensions"]):
            raise SearchError(f"the index {self.path!r} is damaged, its files do not belong together: {_ANEW}")
        calibration = Calibration.from_json(manifest["calibration"])
        return Contents(
            manifest["model"], manifest["made_with"], embeddings, calibration, lines, number=manifest["number"]
        )

    def write(self, contents: Contents, photos: Sequence[Photo], rows: Iterable[np.ndarray]) -> None:
        """`rows` are pieces (photos, dimensions) of the new embeddings. All else comes from `contents`."""
        number, dimensions = contents.number + 1, int(contents.embeddings.shape[1])
        names = {"photos": f"photos-{number}.jsonl", "embeddings": f"embeddings-{number}.npy"}
        with AsideFile(self._file(names["photos"])) as file:
            for photo in photos:
                file.write(photo.line())
            file.commit()
        with AsideFile(self._file(names["embeddings"])) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(photos), dimensions)}
            np.lib.format.write_array_header_1_0(file.file, header)
            for piece in rows:
                file.write(np.ascontiguousarray(piece, dtype="<f4").tobytes())
            file.commit()
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "number": number,
            "model": contents.model,
            "made_with": contents.made_with,
            "dimensions": dimensions,
            **names,
            "calibration": contents.calibration.to_json(),
        }
        write_whole(self._file(_MANIFEST), json.dumps(manifest).encode("ascii"))
        self._remove_others(set(names.values()))

    def _remove_others(self, kept: set[str]) -> None:
        for name in os.listdir(self.path):
            if name not in kept and (_NUMBERED.fullmatch(name) or name.endswith(".aside")):
                with suppress(OSError):
                    os.unlink(self._file(name))
