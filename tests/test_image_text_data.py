# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images with captions out of every kind of data set."""

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from coca_hf.batch_inference.errors import ImageError, InputError
from coca_hf.image_text_data import ImageTextData, open_image_text_data


COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
CAPTIONS = (("a red picture", "something red"), ("a green picture, mostly",), ('a "blue" one\u00e9',))
NAMES = ("a.png", "b [1].png", "c.png")


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), COLOURS[number]).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Three pictures in `pictures`, and elsewhere as working folder: paths must not depend on it."""
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (tmp_path / "data" / "pictures" / name).write_bytes(encoded(number))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def rows() -> list[dict]:
    return [
        {"image": f"pictures/{name}", "caption": list(texts), "label": number}
        for number, (name, texts) in enumerate(zip(NAMES, CAPTIONS, strict=True))
    ]


def json_lines(folder: Path) -> Path:
    path = folder / "photos.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows()]
    path.write_text("\ufeff" + "\n\n".join(lines), encoding="utf-8")
    return path


def list_of_records(folder: Path) -> Path:
    path = folder / "photos.json"
    path.write_text(json.dumps(rows()))
    return path


def coco(folder: Path) -> Path:
    (folder / "annotations").mkdir()
    (folder / "pictures").rename(folder / "train2017")
    path = folder / "annotations" / "captions_train2017.json"
    images = [{"id": 7 + number, "file_name": name} for number, name in enumerate(NAMES)]
    pairs = [(number, text) for number, texts in enumerate(CAPTIONS) for text in texts]
    annotations = [{"id": i, "image_id": 7 + number, "caption": f"{text}\n"} for i, (number, text) in enumerate(pairs)]
    path.write_text(json.dumps({"images": images, "annotations": annotations[::-1][::-1]}))
    return path


def karpathy(folder: Path) -> Path:
    path = folder / "dataset_coco.json"
    images = [
        {
            "filepath": "pictures",
            "filename": name,
            "split": "restval" if number else "train",
            "sentences": [{"raw": text, "tokens": text.split()} for text in texts],
        }
        for number, (name, texts) in enumerate(zip(NAMES, CAPTIONS, strict=True))
    ]
    path.write_text(json.dumps({"images": [*images, {**images[0], "split": "test"}], "dataset": "coco"}))
    return path


def text_files(folder: Path) -> Path:
    for name, texts in zip(NAMES, CAPTIONS, strict=True):
        (folder / "pictures" / name).with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder / "pictures"


def shard(folder: Path) -> Path:
    path = folder / "shard-000.tar"
    with tarfile.open(path, "w") as file:
        for number, texts in enumerate(CAPTIONS):
            text = "\n".join(texts).encode()
            record = json.dumps({"caption": list(texts)}).encode()
            for name, content in (
                (f"{number}.PNG", encoded(number)),
                (f"{number}.json", record),
                (f"{number}.txt", text),
            ):
                member = tarfile.TarInfo(f"part/{name}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


def table_of_paths(folder: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), folder / "paths.parquet")
    return folder / "paths.parquet"


def table_of_bytes(folder: Path) -> Path:
    content = [{"image": encoded(number), "caption": list(texts)} for number, texts in enumerate(CAPTIONS)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), folder / "bytes.parquet")
    return folder / "bytes.parquet"


def dataset_of(folder: Path) -> datasets.Dataset:
    content = {
        "image": [str(folder / row["image"]) for row in rows()],
        "caption": [row["caption"] for row in rows()],
    }
    return datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())


def table_of_the_library(folder: Path) -> Path:
    dataset_of(folder).to_parquet(folder / "library.parquet")
    return folder / "library.parquet"


def saved_dataset(folder: Path) -> Path:
    dataset_of(folder).save_to_disk(folder / "saved")
    return folder / "saved"


SOURCES = [
    json_lines,
    list_of_records,
    coco,
    karpathy,
    text_files,
    shard,
    table_of_paths,
    table_of_bytes,
    table_of_the_library,
    saved_dataset,
]


def content(data: ImageTextData) -> list[tuple]:
    return [(record.captions, record.open_image().convert("RGB").getpixel((0, 0))) for record in data]


EXPECTED = list(zip(CAPTIONS, COLOURS, strict=True))


@pytest.mark.parametrize("make", SOURCES)
def test_every_source_gives_the_same_records(folder, make):
    data = open_image_text_data(make(folder))
    assert len(data) == 3
    assert content(data) == EXPECTED
    assert data[-1].captions == data[2].captions
    assert [each.captions for each in data[1:]] == list(CAPTIONS[1:])
    assert content(pickle.loads(pickle.dumps(data))) == EXPECTED
    with pytest.raises(IndexError):
        data[3]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_of_text_is_read_whatever_separates_it(folder, separator, suffix):
    path = folder / f"photos{suffix}"
    texts = ["one, two\nthree", 'says "four"', "five; \u00e9\tsix"]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows(
            [["number", "title", "filepath"], *zip("123", texts, [f"pictures/{n}" for n in NAMES], strict=True)]
        )
        file.write("\r\n4\r\n")
    data = open_image_text_data(path, image_column="filepath", caption_column="title")
    assert [record.captions for record in data] == [(text,) for text in texts]
    assert [record.open_image().getpixel((0, 0)) for record in data] == list(COLOURS)
    assert [record.fields for record in data] == [{"number": number} for number in "123"]
    assert [record.id for record in data] == [f"pictures/{name}" for name in NAMES]
    assert [reason for _, reason in data.skipped] == ["1 values where the first row names 3"]


def test_several_sources_follow_each_other(folder):
    data = open_image_text_data(
        [json_lines(folder), shard(folder), str(folder / "pic*" / "c.png")], need_captions=False
    )
    assert content(data)[:6] == EXPECTED * 2
    assert (data[6].captions, data[6].path) == ((), str(folder / "pictures" / "c.png"))
    assert [data[number].captions for number in (5, 0, 3)] == [CAPTIONS[2], CAPTIONS[0], CAPTIONS[0]]


def test_other_columns_are_kept(folder):
    assert [record.fields for record in open_image_text_data(table_of_paths(folder))] == [
        {"label": n} for n in range(3)
    ]


def test_records_that_cannot_be_used_are_listed(folder):
    path = folder / "photos.jsonl"
    good = {"image": "pictures/a.png", "caption": "a"}
    lines = [good, {**good, "caption": " "}, {**good, "image": None}, [], {**good, "image": "gone.png"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{")
    data = open_image_text_data(path)
    assert [record.id for record in data] == ["pictures/a.png", "gone.png"]
    assert data.skipped == [
        (f"{path}:2", "no caption in 'caption'"),
        (f"{path}:3", "no path of an image in 'image'"),
        (f"{path}:4", "not a JSON object"),
        (f"{path}:6", "not valid JSON"),
    ]
    with pytest.raises(ImageError, match="no such file"):
        data[1].open_image()


def test_a_streamed_dataset_gives_the_same_records_in_any_order(folder):
    data = open_image_text_data(str(saved_dataset(folder)), streaming=True)
    assert content(data) == EXPECTED
    data.window = 2
    assert [data[number].captions for number in (2, 0, 1, 2)] == [CAPTIONS[number] for number in (2, 0, 1, 2)]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.jsonl",
            '{"img": "a", "text": "b"}',
            "has no column 'image'; it has 'img', 'text'. Name one with --image-col",
        ),
        (
            "x.jsonl",
            '{"image": "a", "text": "b"}',
            "has no column 'caption'; it has 'image', 'text'. Name one with --cap",
        ),
        ("x.csv", "image,text\na,b\n", "has no column 'caption'; it has 'image', 'text'"),
        ("x.json", '[{"image": "a"}]', "has no column 'caption'; it has 'image'"),
        ("x.jsonl", "", "is empty: it has no record"),
        ("x.csv", "image,caption\n", "is empty: it has no record"),
        ("x.json", "[]", "is empty: it has no record"),
        ("x.json", '{"a": 1}', "is neither COCO's nor Karpathy's JSON, nor a list of records"),
        ("x.json", "{", "is not valid JSON"),
        (
            "x.jsonl",
            '{"image": "a", "caption": ""}',
            "no record that can be used: .*x.jsonl:1: no caption in 'caption'",
        ),
        ("x.tar", "no tar", "is a broken tar file"),
        ("x.parquet", "no table", "cannot read .*x.parquet"),
        ("x.tar.gz", "", "is compressed"),
        ("x.xls", "", "is no data set: give a .jsonl"),
        ("x.png", "", "is no data set: give a .jsonl"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(folder, name, text, message):
    with pytest.raises(InputError, match=message):
        open_image_text_data(write(folder / name, text))


def test_what_is_not_there_is_refused(folder):
    with pytest.raises(InputError, match=r"'gone/x/y\.jsonl': no such file"):
        open_image_text_data("gone/x/y.jsonl")
    with pytest.raises(InputError, match="'gone/x/y' is not there"):
        open_image_text_data("gone/x/y")
    with pytest.raises(InputError, match="no data was given"):
        open_image_text_data([])
    with pytest.raises(InputError, match=r"none that can be used among 3 records; the first, .*: no \.txt beside it"):
        open_image_text_data(folder / "pictures")
    with pytest.raises(InputError, match="has no column 'text'; it has 'image', 'caption', 'label'"):
        open_image_text_data(table_of_paths(folder), caption_column="text")
    with pytest.raises(InputError, match="has no split 'val'; it has restval, test, train"):
        open_image_text_data(karpathy(folder), split="val")


def test_a_file_that_changes_is_noticed(folder):
    data = open_image_text_data(json_lines(folder))
    (folder / "photos.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="has changed while it was read"):
        data[2]
