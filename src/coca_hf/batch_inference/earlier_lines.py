# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A first output of JSON lines that is there already: what it holds is taken over, and nothing of it is lost."""

import os
import shutil
from collections.abc import Callable

from .batches import Chunk
from .errors import OutputError
from .outputs import as_record, format_of, json_line, parse_line
from .place import Place
from .plan import Plan
from .record_log import LoggedRecords
from .wording import count


def has_lines(place: Place, *, shared: bool) -> bool:
    """Whether all that a record holds is in the first output, a line each."""
    row = format_of(place.home, place.job.makes)
    others = any(each.content != "records" for each in place.outputs)
    is_all = not others and place.job.makes.isdisjoint({"embeddings", "maps"})
    return row.suffix == ".jsonl" and is_all and not shared


def check_is_not_finished_otherwise(place: Place, *, shared: bool) -> None:
    """Lines of captions can be taken over; what is made as a whole is not changed."""
    if (
        place.log.exists
        or not place.is_home_there()
        or has_lines(place, shared=shared)
        or place.home.content == "report"
    ):
        return
    raise OutputError(
        f"{place.home.path!r} is finished, but was made from other inputs. Name another file, or remove it first"
    )


def adopt_lines(place: Place, plan: Plan, *, shared: bool) -> None:
    """The records that the first output holds, of a finished run over fewer or other inputs, go into the log."""
    if place.log.entries or not has_lines(place, shared=shared) or not place.is_home_there():
        return
    with open(place.home.path, "rb") as file:
        for block in plan:
            records = []
            for name in block.names():
                line = parse_line(file.readline())
                if line is None or line["image"] != name:
                    break
                records.append(as_record(line))
            if records:
                is_last = block.size is not None and len(records) == block.size
                place.log.append([Chunk(block, 0, records, is_last)])
            if block.size is None or len(records) < block.size:
                break
    place.log.refresh()


def keep_other_lines(place: Place, plan: Plan, say: Callable[[str], None]) -> None:
    """Records of other inputs are paid for: the file as it was is kept beside."""
    if not place.is_home_there():
        return
    with open(place.home.path, "rb") as file:
        for record in LoggedRecords(plan, place.log):
            here = file.tell()
            if file.readline() != json_line(record):
                file.seek(here)
                break
        dropped = sum(parse_line(line) is not None for line in file)
    if dropped:
        backup = _free_name(f"{place.home.path}.before")
        try:
            shutil.copyfile(place.home.path, backup)
        except OSError as error:
            raise place.log.failure(error) from None
        say(f"{count(dropped, 'record')} belonged to other inputs. The file as it was is {backup}")


def _free_name(path: str) -> str:
    number = 1
    name = path
    while os.path.lexists(name):
        number += 1
        name = f"{path}-{number}"
    return name
