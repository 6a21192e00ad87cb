# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images in tar shards, Parquet tables and Hugging Face datasets are inputs like files."""

import io
import tarfile
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from coca_hf.batch_inference.errors import InputError
from coca_hf.batch_inference.hf_datasets import DatasetInputs
from coca_hf.batch_inference.images import read_image
from coca_hf.batch_inference.inputs import Input
from coca_hf.batch_inference.plan import PathInputs, Plan


WIDTHS = [3, 5, 7]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4)).save(file, "PNG")
    return file.getvalue()


def write_shard(members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open("shard.tar", mode) as shard:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))


def write_shard_of_three() -> None:
    members = {f"{width}.png": png(width) for width in WIDTHS}
    write_shard({**members, "3.txt": b"three"})


def write_table_of_three(column: str = "image") -> None:
    pyarrow.parquet.write_table(
        pyarrow.table({"id": WIDTHS, column: [png(width) for width in WIDTHS]}), "table.parquet"
    )


def write_structured_table_of_three() -> None:
    images = [{"bytes": png(width), "path": f"{width}.png"} for width in WIDTHS]
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), "table.parquet")


def save_dataset_of_three() -> None:
    images = [{"bytes": png(width), "path": None} for width in WIDTHS]
    datasets.Dataset.from_dict(
        {"number": WIDTHS, "photo": images},
        features=datasets.Features({"number": datasets.Value("int64"), "photo": datasets.Image()}),
    ).save_to_disk("saved")


def widths(inputs) -> list[int]:
    return [read_image(item.path if item.content is None else item.content).width for item in inputs]


@pytest.mark.parametrize(
    ("write", "path", "names"),
    [
        (write_shard_of_three, "shard.tar", ["shard.tar/3.png", "shard.tar/5.png", "shard.tar/7.png"]),
        (write_table_of_three, "table.parquet", ["table.parquet[0]", "table.parquet[1]", "table.parquet[2]"]),
        (
            write_structured_table_of_three,
            "table.parquet",
            ["table.parquet[0]", "table.parquet[1]", "table.parquet[2]"],
        ),
    ],
    ids=["shard", "table", "structured table"],
)
def test_a_container_stands_for_the_images_in_it(write, path, names):
    write()
    inputs = PathInputs([path])
    assert [item.path for item in inputs] == names
    assert widths(inputs) == WIDTHS
    assert Plan(inputs).total == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_stands_for_its_images(streaming):
    save_dataset_of_three()
    inputs = DatasetInputs("saved", streaming=streaming)
    assert [item.path for item in inputs] == ["saved/train[0]", "saved/train[1]", "saved/train[2]"]
    assert widths(inputs) == WIDTHS
    assert Plan(inputs).total == (None if streaming else 3)


def test_rows_of_a_dataset_keep_their_numbers():
    save_dataset_of_three()
    assert [item.path for item in DatasetInputs("saved").rows(1, 3)] == ["saved/train[1]", "saved/train[2]"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"column": "picture"}, "has no column 'picture'; it has number, photo"),
        ({"split": "test"}, "has no splits: leave --split out"),
    ],
)
def test_a_dataset_without_what_is_asked_for_is_refused_in_words(options, reason):
    save_dataset_of_three()
    with pytest.raises(InputError, match=reason):
        list(DatasetInputs("saved", **options))


def test_a_dataset_that_is_not_there_is_refused_in_words():
    with pytest.raises(InputError, match=r"cannot load the dataset './nowhere'"):
        DatasetInputs("./nowhere").count()


def test_rows_without_an_image_are_errors_of_their_own():
    images = [{"bytes": png(3), "path": None}, None, {"bytes": None, "path": "gone.png"}, {"bytes": b"", "path": None}]
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), "table.parquet")
    reasons = [item.error for item in PathInputs(["table.parquet"])]
    assert reasons == [None, "no image in this row", "'gone.png': no such file or directory", "no image in this row"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.tar", b"not a tar file" * 100, "a broken tar file, or a compressed one"),
        ("a.tar", bytes(10240), "no images in this shard"),
        ("a.parquet", b"not a table", "cannot read this table"),
    ],
)
def test_a_broken_container_is_one_error(name, data, reason):
    Path(name).write_bytes(data)
    items = list(PathInputs([name]))
    assert [item.path for item in items] == [name]
    assert reason in str(items[0].error)


def test_a_shard_that_is_cut_off_gives_what_is_whole():
    write_shard_of_three()
    data = Path("shard.tar").read_bytes()
    Path("shard.tar").write_bytes(data[: 3 * 512 + 100])
    items = list(PathInputs(["shard.tar"]))
    assert items[0] == Input("shard.tar/3.png", content=items[0].content)
    assert read_image(items[0].content).width == 3
    assert items[-1].error is not None


def test_a_table_without_images_says_so():
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), "table.parquet")
    (item,) = PathInputs(["table.parquet"])
    assert item.error == "no column with bytes of images in this table"
