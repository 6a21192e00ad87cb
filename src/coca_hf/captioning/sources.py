# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files, folders, globs, lists and containers into an ordered stream of inputs.

Everything here is lazy: of a folder of a million files, one directory listing is in memory at a time.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from typing import Protocol

from .errors import ImageError, InputError


IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What counts as an image inside a folder, in any case. A file that is named itself is opened whatever its suffix."""

_MAGIC = re.compile(r"[*?[]")


CONTAINER_SUFFIXES = frozenset({".tar", ".parquet"})
"""What stands for the images in it where it is named itself: WebDataset shards and tables."""


@dataclass(frozen=True)
class Span:
    """`size` bytes from `offset` on of the file at `path`."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class Input:
    """One image to read, or with `error` set, why there is none.

    `path` is the name in records, as given, bytes that are not UTF-8 as surrogates (`os.fsdecode`); `content` is where
    the image is if not in a file of that name.
    """

    path: str
    error: str | None = None
    content: bytes | Span | None = None


@dataclass(frozen=True)
class InputCount:
    """`total` inputs, None where only reading them all would tell, and whether one of them looked `readable`."""

    total: int | None
    readable: bool


class Inputs(Protocol):
    """What a run goes through: the same inputs, in the same order, each time."""

    def __iter__(self) -> Iterator[Input]: ...

    def count(self) -> InputCount:
        """Without opening any image."""


class PathInputs:
    """The inputs that `paths` stand for, in their order and duplicates included.

    A folder stands for the images under it, each folder's entries sorted by name; a glob for the paths it matches,
    likewise sorted; a tar shard or a Parquet file for the images in it. A path that exists is never read as a glob.
    What cannot be an image is an `Input` with its reason.
    """

    def __init__(self, paths: Iterable[str]):
        self.paths = paths

    def __iter__(self) -> Iterator[Input]:
        return (item for found in iter_paths(self.paths) for item in opened(found))

    def count(self) -> InputCount:
        from .containers import count_images

        total: int = 0
        readable = False
        for item in iter_paths(self.paths):
            if item.error is None and is_container(item.path):
                total += count_images(item.path)
                readable = True
            else:
                total += 1
                readable |= item.error is None
        return InputCount(total, readable)


class PathList:
    """The paths in a file, one a line, as `PathInputs` takes them. Names that hold line ends can be separated by zero
    bytes instead, as `find -print0` writes them.

    Raises `CaptioningError` where the file cannot be read. It is read anew in each turn, so it has to be a file.
    """

    _piece = 1 << 16

    def __init__(self, path: str):
        self.path = path
        self._separator = self._find_separator()

    def _find_separator(self) -> bytes:
        try:
            check_is_regular_file(self.path)
            with open(self.path, "rb") as file:
                return b"\0" if b"\0" in file.read(self._piece) else b"\n"
        except ImageError as error:
            raise InputError(f"cannot read the list {self.path!r}: {error}") from None
        except OSError as error:
            raise InputError(f"cannot read the list {self.path!r}: {error_text(error)}") from None

    def __iter__(self) -> Iterator[str]:
        with open(self.path, "rb") as file:
            rest = b""
            while piece := file.read(self._piece):
                *lines, rest = (rest + piece).split(self._separator)
                yield from self._names(lines)
            yield from self._names([rest])

    def _names(self, lines: list[bytes]) -> Iterator[str]:
        for line in lines:
            # A list that was written on Windows.
            name = os.fsdecode(line.removesuffix(b"\r") if self._separator == b"\n" else line)
            if name:
                yield name


def iter_inputs(paths: Iterable[str]) -> Iterator[Input]:
    return iter(PathInputs(paths))


def is_container(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in CONTAINER_SUFFIXES


def opened(item: Input) -> Iterator[Input]:
    """The images in a container, anything else as it is."""
    if item.error is not None or item.content is not None or not is_container(item.path):
        return iter([item])
    from .containers import iter_images

    return iter_images(item.path)


def iter_paths(paths: Iterable[str]) -> Iterator[Input]:
    """As `PathInputs`, with containers unopened."""
    for path in paths:
        if "\0" in path:
            yield Input(path, "no file has a zero byte in its name")
        elif _MAGIC.search(path) and not os.path.lexists(path):
            yield from _glob(path)
        elif os.path.isdir(path) and not _is_folder_with_image_name(path):
            yield from _walk(path)
        else:
            yield _checked(path)


def check_is_regular_file(path: str) -> None:
    """Raises `ImageError` unless `path` is a regular file or a link to one.

    To be called before any `open`: opening a named pipe waits for a writer, opening a device can have effects.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ImageError(_why_missing(path)) from None
    except UnicodeEncodeError:
        raise ImageError("no file has such a name: it holds half a character") from None
    except OSError as error:
        raise ImageError(error_text(error)) from None
    if not stat.S_ISREG(mode):
        raise ImageError(_what_it_is(path, mode))


def error_text(error: OSError) -> str:
    """The system's reason without number and file name, for example "permission denied"."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason[:1].lower() + reason[1:]


def _why_missing(path: str) -> str:
    if os.path.lexists(path):
        return "a link to something that is not there"
    return "no such file, folder or glob match" if _MAGIC.search(path) else "no such file or folder"


def _what_it_is(path: str, mode: int) -> str:
    if stat.S_ISDIR(mode):
        hint = "; to read what is in it, give it with a slash at the end" if _has_image_suffix(path) else ""
        return f"a folder, not an image file{hint}"
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return f"{kinds.get(stat.S_IFMT(mode), 'something special')}, not an image file"


def _checked(path: str) -> Input:
    try:
        check_is_regular_file(path)
    except ImageError as error:
        return Input(path, str(error))
    return Input(path)


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_folder_with_image_name(path: str) -> bool:
    return not path.endswith("/") and _has_image_suffix(os.path.basename(path))


class _Folders:
    """The folders of one input that were already gone through.

    Links may lead back to a folder above them, or to the same folder twice. A link to somewhere under `root` is left
    to the real path, which the walk reaches anyway; elsewhere, the first way to a folder is the one taken.
    """

    def __init__(self, root: str):
        self._real_root = os.path.join(os.path.realpath(root or "."), "")
        self._seen: set[tuple[int, int]] = set()

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        """The entries of `folder` sorted by name, none if it was listed before. Raises `OSError`."""
        status = os.stat(folder or ".")
        identity = (status.st_dev, status.st_ino)
        if identity in self._seen:
            return []
        self._seen.add(identity)
        with os.scandir(folder or ".") as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def leads_back(self, entry: os.DirEntry[str]) -> bool:
        return entry.is_symlink() and os.path.join(os.path.realpath(entry.path), "").startswith(self._real_root)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _walk(root: str) -> Iterator[Input]:
    found = False
    for item in _walk_folder(root, _Folders(root)):
        found = True
        yield item
    if not found:
        yield Input(root, "no images in this folder")


def _walk_folder(root: str, folders: _Folders) -> Iterator[Input]:
    # A stack of its own: folders can be nested deeper than Python calls can.
    stack: list[Iterator[os.DirEntry[str]]] = []
    folder: str | None = root
    while folder is not None or stack:
        if folder is not None:
            try:
                stack.append(iter(folders.entries(folder)))
            except OSError as error:
                yield Input(folder, f"cannot list this folder: {error_text(error)}")
            folder = None
            continue
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif _has_image_suffix(entry.name):
            yield _checked(entry.path)
        elif _is_folder(entry) and not folders.leads_back(entry):
            folder = entry.path


def _glob(pattern: str) -> Iterator[Input]:
    """As a shell gives the matches of `pattern`: folders among them stand for their images, all else for itself.

    `**` stands for any depth of folders; folders that match below it are not gone through once more.
    """
    deep = "**" in pattern.split("/")
    found = False
    for path in _expand(pattern):
        if os.path.isdir(path) and not _is_folder_with_image_name(path):
            if not deep:
                found = True
                yield from _walk(path)
        else:
            found = True
            yield _checked(path)
    if not found:
        yield Input(pattern, "no such file, folder or glob match")


def _expand(pattern: str) -> Iterator[str]:
    """The paths that match: those in a folder sorted by name, and before those in the folders below it.

    `glob` of the standard library follows every link to a folder again and again below `**`.
    """
    first_magic = _MAGIC.search(pattern)
    split = pattern.rfind("/", 0, first_magic.start() if first_magic else None) + 1
    parts = [part for part in pattern[split:].split("/") if part]
    matches = _match(pattern[:split], parts)
    # With two `**`, a path can match in more ways than one.
    yield from matches if parts.count("**") < 2 else dict.fromkeys(matches)


def _match(base: str, parts: list[str]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        for folder in _folders_below(base):
            yield from _match(folder, rest or ["*"])
    elif not _MAGIC.search(part):
        if os.path.lexists(base + part):
            yield from _descend(base + part, rest)
    else:
        matches = re.compile(translate(part)).match
        for entry in _listed(base, _Folders(base)):
            if matches(entry.name) and (part[0] == "." or entry.name[0] != "."):
                yield from _descend(base + entry.name, rest)


def _descend(path: str, rest: list[str]) -> Iterator[str]:
    if not rest:
        yield path
    elif os.path.isdir(path):
        yield from _match(path + "/", rest)


def _folders_below(base: str) -> Iterator[str]:
    """`base` and the folders below it, hidden and empty ones left out, as prefixes of paths ("" or "a/b/")."""
    folders = _Folders(base)
    stack = [base]
    while stack:
        folder = stack.pop()
        entries = _listed(folder, folders)
        if entries:
            yield folder
        below = [
            folder + entry.name + "/"
            for entry in entries
            if entry.name[0] != "." and _is_folder(entry) and not folders.leads_back(entry)
        ]
        stack.extend(reversed(below))


def _listed(base: str, folders: _Folders) -> list[os.DirEntry[str]]:
    """The sorted entries of `base`, none where it cannot be listed: a shell passes over those, too."""
    try:
        return folders.entries(base)
    except OSError:
        return []
