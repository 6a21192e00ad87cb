# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where a run keeps what it needs to be continued, and how it tells whether it was finished before."""

import os
from collections.abc import Sequence
from typing import Any

from .jobs import Job, MadeWith
from .outputs import Output, check_outputs, files_of
from .record_log import RecordLog, read_note, refuse_other_choices, write_note
from .summary import Summary


class Place:
    """Where a run keeps what it needs to be continued: beside its first output that is not a report."""

    def __init__(self, job: Job, outputs: Sequence[Output]):
        self.job = job
        self.outputs = outputs
        self.home = next((each for each in outputs if each.content != "report"), outputs[0])
        # Through a link: what is written later appears where it leads to.
        folder, name = os.path.split(os.path.realpath(self.home.path))
        self.note_path = os.path.join(folder, f".{name}.run.json")
        self.log = RecordLog(os.path.join(folder, f"{name}.records"), self.home.path)
        self.made_with: MadeWith = job.made_with()
        if any(each.content == "report" for each in outputs):
            self.made_with["report"] = True

    @property
    def files(self) -> list[str]:
        return [os.path.realpath(path) for each in self.outputs for path in files_of(each, self.job.makes)]

    def check(self) -> None:
        """Raises `OutputError`, and changes nothing."""
        note = read_note(self.note_path)
        ours = {*note.get("sizes", {}), *self.log.outputs}
        check_outputs(self.outputs, self.job.makes, lambda path: os.path.realpath(path) in ours)
        if self.home.content == "report":
            return  # made anew each time, whatever the one before was made with
        if note and not self.log.exists and self.is_home_there():
            refuse_other_choices(self.home.path, note["made_with"], self.made_with, "remove it first")
        self.log.check(self.made_with)

    def is_home_there(self) -> bool:
        return os.path.exists(self.home.path) and os.path.getsize(self.home.path) > 0

    def finished(self, inputs: str) -> dict[str, Any] | None:
        """What a run of the same with these inputs left when it was finished."""
        note = read_note(self.note_path)
        is_same = note.get("made_with") == self.made_with and note.get("inputs") == inputs
        sizes = {path: os.path.getsize(path) for path in self.files if os.path.exists(path)}
        return note if is_same and note.get("sizes") == sizes else None

    def begin(self) -> None:
        if self.home.content == "report" and read_note(self.log.note_path).get("made_with") != self.made_with:
            self.log.remove()
        self.log.begin(self.made_with, self.files)

    def finish(self, inputs: str, summary: Summary) -> None:
        write_note(
            self.note_path,
            self.made_with,
            inputs=inputs,
            images=summary.images,
            failed=summary.failed,
            failures=[[record.image, record.error] for record in summary.failures],
            sizes={path: os.path.getsize(path) for path in self.files},
        )
        self.log.remove()
