# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files, folders, globs, braces and lists of them into an ordered stream of paths.

Everything here is lazy: of a folder of a million files, one directory listing is in memory at a time.
"""

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from typing import BinaryIO

from .errors import ImageError, InputError
from .files import check_is_regular_file, error_text
from .inputs import PICTURE_SUFFIXES, Input


_MAGIC = re.compile(r"[*?[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class PathList:
    """The paths in a file, one a line, as `PathInputs` takes them. Names that hold line ends can be separated by zero
    bytes instead, as `find -print0` writes them. A byte order mark says that the text is UTF-8 or UTF-16.

    Raises `InputError` where the file cannot be read. It is read anew in each turn, so it has to be a file.
    """

    _piece = 1 << 16

    def __init__(self, path: str):
        self.path = path
        try:
            check_is_regular_file(self.path)
            with open(self.path, "rb") as file:
                start = file.read(self._piece)
        except ImageError as error:
            raise InputError(f"cannot read the list {self.path!r}: {error}") from None
        except OSError as error:
            raise InputError(f"cannot read the list {self.path!r}: {error_text(error)}") from None
        marks = ((mark, encoding) for mark, encoding in _BYTE_ORDER_MARKS if start.startswith(mark))
        self._mark, self._encoding = next(marks, (b"", "utf-8"))
        is_wide = self._encoding != "utf-8"
        self._separator = b"\0" if not is_wide and b"\0" in start else b"\n"

    def __iter__(self) -> Iterator[str]:
        with open(self.path, "rb") as file:
            file.seek(len(self._mark))
            rest = b""
            for piece in self._pieces(file):
                *lines, rest = (rest + piece).split(self._separator)
                yield from self._names(lines)
            yield from self._names([rest])

    def _pieces(self, file: BinaryIO) -> Iterator[bytes]:
        read = iter(lambda: file.read(self._piece), b"")
        if self._encoding == "utf-8":
            return read
        return (text.encode("utf-8", "surrogatepass") for text in codecs.iterdecode(read, self._encoding, "replace"))

    def _names(self, lines: list[bytes]) -> Iterator[str]:
        for line in lines:
            # A list that was written on Windows.
            name = os.fsdecode(line.removesuffix(b"\r") if self._separator == b"\n" else line)
            if name:
                yield name


def iter_paths(paths: Iterable[str]) -> Iterator[Input]:
    """The inputs that `paths` stand for, containers unopened."""
    for given in paths:
        for path in [given] if os.path.lexists(given) else expand_braces(given):
            yield from _inputs_of(path)


def _inputs_of(path: str) -> Iterator[Input]:
    if "\0" in path:
        yield Input(path, "no file has a zero byte in its name")
    elif _URL.match(path) and not os.path.lexists(path):
        yield Input(path, "URLs are not read: download the file first, or mount the bucket that it is in")
    elif _MAGIC.search(path) and not os.path.lexists(path):
        yield from _glob(path)
    elif os.path.isdir(path) and not _is_folder_with_image_name(path):
        yield from _walk(path)
    else:
        yield _checked(path)


def expand_braces(path: str) -> Iterator[str]:
    """As a shell: `{a,b}` stands for each of its words, `{000..123}` for each number, padded as the first one is."""
    for found in _BRACES.finditer(path):
        words = _words_in(found[1])
        if words is not None:
            for word in words:
                for rest in expand_braces(path[found.end() :]):
                    yield path[: found.start()] + word + rest
            return
    yield path


def _words_in(text: str) -> Iterable[str] | None:
    """None where braces hold neither a range nor several words, and so are part of a name."""
    numbers = _RANGE.fullmatch(text)
    if numbers is None:
        return text.split(",") if "," in text else None
    first, last = int(numbers[1]), int(numbers[2])
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    step = 1 if first <= last else -1
    return (f"{number:0{width}d}" for number in range(first, last + step, step))


def _checked(path: str) -> Input:
    try:
        check_is_regular_file(path)
    except ImageError as error:
        reason = str(error)
        if os.path.isdir(path) and _has_image_suffix(path):
            reason += "; to read what is in it, give it with a slash at the end"
        elif _MAGIC.search(path) and not os.path.lexists(path):
            reason = "no such file, folder or glob match"
        return Input(path, reason)
    return Input(path)


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


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
        elif entry.name.startswith("."):
            # As a glob. macOS puts a "._NAME" beside each file on a card, and programs hide thumbnails in folders.
            continue
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
