# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
The output folder: whose it is, where a run in it stands, and its files that grow.

    training.yaml        the whole configuration, written first: it makes the folder this program's
    log.jsonl            a line a logged step
    evaluations.jsonl    a line an evaluation
    skipped.jsonl        a line an image that could not be read
    checkpoints/         while the run is: run.json, before.json and a folder a checkpoint
    report.html          curves and captions
    README.md, model.safetensors, ...    at the end, the model
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..batch_inference.errors import OutputError
from ..batch_inference.files import error_text, lock_file, remove_asides, sync_folder, write_whole
from .errors import TrainingFolderError
from .options import TrainingOptions, read_yaml


MARK = "# Written by coca-hf train: the options of the run in this folder.\n"
GROWING = ("log.jsonl", "evaluations.jsonl", "skipped.jsonl")
_COMPLETE = "complete"
_LOCK_SECONDS = 30


class RunFolder:
    """
    The folder of a run with these options, looked at but not yet touched.

    Raises:
        TrainingFolderError: It is something else's, or holds a run with other options.
    """

    def __init__(self, options: TrainingOptions):
        self.path = Path(options.output)
        self.options = options
        self.is_new = self._is_free()
        if not self.is_new:
            self._check_same()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        return not self.is_new and not self.checkpoints.exists() and (self.path / "config.json").exists()

    def _is_free(self) -> bool:
        if not os.path.lexists(self.path):
            return True
        if not self.path.is_dir():
            raise TrainingFolderError(f"--output {str(self.path)!r} is a file: name a folder")
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise TrainingFolderError(f"cannot list {str(self.path)!r}: {error_text(error)}") from None
        # Of a run that was killed as it began.
        names = [name for name in names if not (name.startswith(".training.yaml.") and name.endswith(".aside"))]
        if names and not self._is_marked():
            raise TrainingFolderError(
                f"--output {str(self.path)!r} holds other things than a training run: name a new folder"
            )
        return not names

    def _is_marked(self) -> bool:
        try:
            with open(self.path / "training.yaml", encoding="utf-8", errors="replace") as file:
                return file.read(len(MARK)) == MARK
        except OSError:
            return False

    def _check_same(self) -> None:
        earlier = TrainingOptions.of(read_yaml(str(self.path / "training.yaml")))
        differing = self.options.differing_from(earlier)
        if differing:
            raise TrainingFolderError(
                f"--output {str(self.path)!r} holds a run with other settings: {', '.join(differing)}. "
                "Name another folder, or give the same settings to continue"
            )

    def begin(self, facts: Mapping[str, Any]) -> None:
        """
        Makes the folder, or checks that the run in it began with the same `facts` about data and model.

        Raises:
            TrainingFolderError: They are others, or it cannot be written to.
        """
        import yaml

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_asides(str(self.path / "training.yaml"))
            if self.is_new:
                text = yaml.safe_dump(self.options.as_dict(), sort_keys=False, allow_unicode=True)
                write_whole(str(self.path / "training.yaml"), (MARK + text).encode("utf-8"))
            self.checkpoints.mkdir(exist_ok=True)
            self._check_facts(facts)
        except OutputError as error:
            raise TrainingFolderError(str(error)) from None
        except OSError as error:
            raise TrainingFolderError(f"cannot write to {str(self.path)!r}: {error_text(error)}") from None

    def _check_facts(self, facts: Mapping[str, Any]) -> None:
        path = self.checkpoints / "run.json"
        if not path.exists():
            self.write("checkpoints/run.json", json.dumps(facts, indent=2))
            return
        earlier = json.loads(path.read_text("utf-8"))
        for name, value in facts.items():
            if earlier.get(name) != value:
                raise TrainingFolderError(
                    f"--output {str(self.path)!r} holds a run that began with another {name}: {earlier.get(name)}, "
                    f"now {value}. Name another folder to begin anew"
                )

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """
        Nobody else is at work here while this is entered. The lock goes with the process, however that ends.

        Readers of a run that was killed hold it for some seconds more; other programs are waited for as long, and no
        longer. Raises `TrainingFolderError`.
        """
        path = self.checkpoints / "lock"
        just_finished = TrainingFolderError(f"another process has just finished the run in {str(self.path)!r}")
        try:
            descriptor = self._wait_for_lock(path, say)
        except FileNotFoundError:
            raise just_finished from None
        try:
            if not path.exists() or not os.path.samestat(os.stat(path), os.fstat(descriptor)):
                raise just_finished
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, path: Path, say: Callable[[str], None]) -> int:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return lock_file(str(path))
            except BlockingIOError:
                if end - time.monotonic() > _LOCK_SECONDS - 1:
                    say(f"Waiting for another process at work in {str(self.path)!r}")
                if time.monotonic() > end:
                    raise TrainingFolderError(
                        f"another process is at work on the run in {str(self.path)!r}: wait for it or end it"
                    ) from None
                time.sleep(1)

    # --- checkpoints ---

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"checkpoint-{step}"

    def complete_steps(self) -> list[int]:
        """Steps of the checkpoints that are whole, in order."""
        steps = (path.parent.name.removeprefix("checkpoint-") for path in self.checkpoints.glob(f"*/{_COMPLETE}"))
        return sorted(int(step) for step in steps if step.isdigit())

    def mark_complete(self, step: int, keep: int) -> None:
        """
        A checkpoint is there once all of it is on the disk; then older ones may go.

        Raises `OSError` and `TrainingFolderError`.
        """
        folder = self.checkpoint(step)
        sizes = {}
        for path in folder.iterdir():
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                sizes[path.name] = path.stat().st_size
        self.write(str((folder / _COMPLETE).relative_to(self.path)), json.dumps(sizes))
        sync_folder(str(folder))
        sync_folder(str(self.checkpoints))
        for earlier in self.complete_steps()[:-keep]:
            # Unmarked first, so that half a checkpoint is never taken for a whole one.
            (self.checkpoint(earlier) / _COMPLETE).unlink()
            shutil.rmtree(self.checkpoint(earlier), ignore_errors=True)

    def check_checkpoint(self, step: int) -> None:
        """Raises `TrainingFolderError` where files of a checkpoint are gone or have another size than when written."""
        folder = self.checkpoint(step)
        for name, size in json.loads((folder / _COMPLETE).read_text("utf-8")).items():
            found = (folder / name).stat().st_size if (folder / name).exists() else None
            if found != size:
                state = "is gone" if found is None else f"has {found:,} bytes of {size:,}"
                raise TrainingFolderError(
                    f"the checkpoint {str(folder)!r} is damaged: {name} {state}. Delete this folder, and the same "
                    "command continues from what is left"
                )

    def remove_incomplete(self) -> None:
        for path in self.checkpoints.glob("checkpoint-*"):
            if not (path / _COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)

    # --- files ---

    def write(self, name: str, text: str) -> None:
        """Raises `TrainingFolderError`."""
        try:
            write_whole(str(self.path / name), (text.rstrip("\n") + "\n").encode("utf-8"))
        except OutputError as error:
            raise TrainingFolderError(str(error)) from None

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raises `TrainingFolderError`; whole lines only are then there."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = self.path / name
        size = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "ab") as file:
                file.write(text.encode("ascii"))
        except OSError as error:
            os.truncate(path, size)
            raise TrainingFolderError(f"cannot write to {str(path)!r}: {error_text(error)}") from None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of one of the growing files, whole lines."""
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def cut_back(self, step: int) -> None:
        """Removes the lines that steps after `step` wrote. They will be written again."""
        for name in GROWING:
            if (self.path / name).exists():
                kept = "".join(json.dumps(row) + "\n" for row in self.rows(name) if row["step"] <= step)
                write_whole(str(self.path / name), kept.encode("ascii"))

    def finish(self) -> None:
        """What was there for continuing goes, all at once: a half of it would be taken for a run to continue."""
        leftover = self.path / ".checkpoints"
        if self.checkpoints.exists():
            os.replace(self.checkpoints, leftover)
            sync_folder(str(self.path))
        shutil.rmtree(leftover, ignore_errors=True)
