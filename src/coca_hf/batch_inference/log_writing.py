# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Into the record log what is done, and out of it, in the inputs' order, to whoever wants records as they come."""

import time
from collections.abc import Iterable, Sequence

from .batches import Chunk
from .inputs import Record
from .outputs import RecordSink
from .plan import Plan
from .progress import Progress
from .record_log import RecordLog


# Records are made to outlive a power cut so often: this is what one costs.
_SECONDS_BETWEEN_ENTRIES = 1.0


class Entry:
    """Chunks of a block that go into the log together, for each entry waits for the disk."""

    def __init__(self, log: RecordLog):
        self.log = log
        self.chunks: list[Chunk] = []
        self.written = time.monotonic()

    def add(self, chunk: Chunk) -> list[Chunk]:
        """-> the chunks that are on the disk now."""
        self.chunks.append(chunk)
        if chunk.is_last or time.monotonic() - self.written >= _SECONDS_BETWEEN_ENTRIES:
            return self.flush()
        return []

    def flush(self) -> list[Chunk]:
        chunks = self.chunks
        if chunks:
            self.log.append(chunks)
        # Behind what may raise: what is not written is tried once more.
        self.chunks = []
        self.written = time.monotonic()
        return chunks


class Follower:
    """Gives streams the records of all blocks in order: those that the log had before, and those that come."""

    def __init__(self, plan: Plan, log: RecordLog, streams: Sequence[RecordSink], shown: Progress):
        self.log = log
        self.streams = streams
        self.shown = shown
        self.blocks = iter(plan) if streams else iter(())
        self.current: str | None = None

    def give(self, chunk: Chunk) -> None:
        if not self.streams:
            return
        if chunk.block.name != self.current:
            self._catch_up(chunk.block.name, chunk.start)
            self.current = chunk.block.name
        self._write(chunk.records)

    def finish(self) -> None:
        if self.streams:
            self._catch_up(None, 0)

    def _catch_up(self, name: str | None, start: int) -> None:
        """With the blocks before `name` that were done before, and the first records of it."""
        for block in self.blocks:
            if block.name == name:
                if start:
                    self._write(self.log.records(block))
                return
            self._write(self.log.records(block))

    def _write(self, records: Iterable[Record]) -> None:
        with self.shown.aside():
            kept = records if isinstance(records, list) or len(self.streams) == 1 else list(records)
            for stream in self.streams:
                stream.write(kept)
