# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all, also after a power cut, and what the system says of the others."""

import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ImageError, OutputError


def error_text(error: OSError) -> str:
    """The system's reason without number and file name, for example "permission denied"."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason[:1].lower() + reason[1:]


def digest(names: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for these names in their order."""
    found = hashlib.sha256()
    for name in names:
        found.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()[:16]


def check_is_regular_file(path: str) -> None:
    """Raises `ImageError` unless `path` is a regular file or a link to one.

    Call it before any `open`: opening a named pipe waits for a writer, opening a device can have effects.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        dangling = os.path.lexists(path)
        raise ImageError("a link to something that is not there" if dangling else "no such file or folder") from None
    except UnicodeEncodeError:
        raise ImageError("no file has such a name: it holds half a character") from None
    except OSError as error:
        raise ImageError(error_text(error)) from None
    if not stat.S_ISREG(mode):
        raise ImageError(f"{_kind_of(mode)}, not an image file")


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")


def sync_folder(folder: str) -> None:
    """Makes the names in `folder` outlive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Raises `OSError`; part of `data` may then be written."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def lock_file(path: str) -> int:
    """A descriptor that holds the lock at `path` till it is closed, or its process ends, however that happens.

    Raises `BlockingIOError` where another process holds it. A file system or a machine without locks has nobody wait.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except (ImportError, OSError):  # no such system or file system
        pass
    return descriptor


class AsideFile:
    """A file that appears under its name when it is complete, and otherwise not at all.

    `write` and `commit` raise `OutputError`. `close` without `commit` leaves nothing behind.
    """

    def __init__(self, path: str):
        self.path = path
        # Through a link, not in its place.
        self.target = os.path.realpath(path)
        folder, name = os.path.split(self.target)
        # Processes on several machines may share the folder, so their numbers would not tell them apart.
        self.aside = os.path.join(folder, f".{name[:200]}.{uuid.uuid4().hex[:12]}.aside")
        try:
            self.file = open(self.aside, "wb+")  # noqa: SIM115 - lives as long as this object
        except OSError as error:
            raise self.failure(error) from None

    def __enter__(self) -> "AsideFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write to {self.path!r}: {error_text(error)}")

    def write(self, data: bytes) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            raise self.failure(error) from None

    def commit(self) -> None:
        try:
            self.file.flush()
            # Without this, a name that outlives a power cut may stand for nothing.
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.aside, self.target)
        except OSError as error:
            raise self.failure(error) from None
        sync_folder(os.path.dirname(self.target))

    def close(self) -> None:
        with suppress(OSError):  # what could not be flushed is about to be removed
            self.file.close()
        with suppress(FileNotFoundError):
            os.unlink(self.aside)


@contextmanager
def folder_aside(target: Path, mode: int) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all is written, and is gone if anything fails.

    `mode` is its permissions then, for what makes it lets in its owner alone. Raises `OSError`; a folder that is not
    empty is not replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield aside
        aside.chmod(mode)
        if target.exists():
            target.rmdir()
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_whole(path: str, data: bytes) -> None:
    """A small file at once. Raises `OutputError`."""
    with AsideFile(path) as aside:
        aside.write(data)
        aside.commit()


def remove_asides(path: str) -> None:
    """Removes what processes left that were killed while they wrote `path`. Nobody may be writing it."""
    folder, name = os.path.split(os.path.realpath(path))
    with suppress(OSError):
        for entry in os.listdir(folder):
            if entry.startswith(f".{name[:200]}.") and entry.endswith(".aside"):
                Path(folder, entry).unlink(missing_ok=True)
