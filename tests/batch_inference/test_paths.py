# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files, folders and globs become inputs in a stable order, and nothing in a file system stops them."""

import inspect
import os
import socket
import sys
from pathlib import Path

import pytest

from coca_hf.batch_inference.inputs import Input
from coca_hf.batch_inference.paths import iter_paths
from coca_hf.batch_inference.plan import PathInputs, Plan


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def paths(*inputs: str) -> list[str]:
    return [item.path for item in iter_paths(inputs)]


def only(path: str) -> Input:
    (item,) = iter_paths([path])
    return item


def test_a_file_is_one_input_whatever_its_suffix():
    make("picture.dat")
    assert only("picture.dat") == Input("picture.dat")


def test_inputs_keep_their_order_and_duplicates():
    make("b.jpg", "a.jpg")
    assert paths("b.jpg", "a.jpg", "b.jpg") == ["b.jpg", "a.jpg", "b.jpg"]


def test_a_folder_stands_for_the_images_under_it_sorted_by_name():
    make("d/c.png", "d/b/2.jpg", "d/b/1.webp", "d/a.jpeg", "d/notes.txt", "d/b/deep/er/0.tif")
    assert paths("d") == ["d/a.jpeg", "d/b/1.webp", "d/b/2.jpg", "d/b/deep/er/0.tif", "d/c.png"]


def test_suffixes_count_in_any_case():
    make("d/a.JPG", "d/b.Png")
    assert paths("d") == ["d/a.JPG", "d/b.Png"]


def test_a_folder_without_images_is_an_error_of_its_own():
    make("d/notes.txt")
    assert only("d") == Input("d", "no images in this folder")


def test_a_folder_nested_deeper_than_python_calls_is_gone_through():
    deep = "d/" + "a/" * 150
    make(deep + "x.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 50)
    try:
        assert paths("d") == [deep + "x.jpg"]
        assert paths("d/**/*.jpg") == [deep + "x.jpg"]
    finally:
        sys.setrecursionlimit(limit)


def test_a_link_back_to_its_own_folder_is_followed_once():
    make("d/1.jpg", "d/sub/2.jpg")
    os.symlink(".", "d/again")
    os.symlink("../..", "d/sub/up")
    os.symlink("self", "d/self")
    assert [path for path in paths("d") if not path.startswith("d/sub/up")] == ["d/1.jpg", "d/sub/2.jpg"]


def test_folders_that_link_to_each_other_end():
    make("a/1.jpg", "b/2.jpg")
    os.symlink("../b", "a/to_b")
    os.symlink("../a", "b/to_a")
    assert paths("a") == ["a/1.jpg", "a/to_b/2.jpg"]


def test_an_image_keeps_its_real_path_where_a_link_leads_to_its_folder_too():
    make("d/real/1.jpg")
    os.symlink("real", "d/alias")
    assert paths("d") == ["d/real/1.jpg"]


def test_a_link_to_a_file_is_an_input_of_its_own():
    make("d/1.jpg")
    os.symlink("1.jpg", "d/2.jpg")
    assert paths("d") == ["d/1.jpg", "d/2.jpg"]


def test_a_glob_matches_as_in_a_shell():
    make("d/b.jpg", "d/a.jpg", "d/a.txt", "d/.hidden.jpg", "d/sub/c.jpg")
    assert paths("d/*.jpg") == ["d/a.jpg", "d/b.jpg"]
    assert paths("d/.*.jpg") == ["d/.hidden.jpg"]
    assert paths("d/[!b].*") == ["d/a.jpg", "d/a.txt"]
    assert paths("*/s?b/*") == ["d/sub/c.jpg"]


def test_a_folder_that_a_glob_matches_stands_for_its_images():
    make("d/sub/c.jpg", "d/sub/notes.txt", "d/a.jpg")
    assert paths("d/*") == ["d/a.jpg", "d/sub/c.jpg"]


def test_two_stars_stand_for_any_depth():
    make("d/a.jpg", "d/x/b.jpg", "d/x/y/c.jpg", "d/x/y/c.png")
    assert paths("d/**/*.jpg") == ["d/a.jpg", "d/x/b.jpg", "d/x/y/c.jpg"]
    assert paths("d/**/y/*") == ["d/x/y/c.jpg", "d/x/y/c.png"]
    assert paths("**/*.png") == ["d/x/y/c.png"]


def test_two_stars_twice_match_a_path_once():
    make("d/b/b/c.jpg")
    assert paths("d/**/b/**/c.jpg") == ["d/b/b/c.jpg"]


def test_two_stars_pass_links_back():
    make("d/1.jpg", "d/sub/2.jpg")
    os.symlink(".", "d/again")
    os.symlink("..", "d/sub/up")
    assert paths("d/**/*.jpg") == ["d/1.jpg", "d/sub/2.jpg"]


def test_a_path_that_exists_is_not_read_as_a_glob():
    make("square[1].jpg", "square1.jpg")
    assert paths("square[1].jpg") == ["square[1].jpg"]


def test_a_pattern_that_names_no_file_is_a_glob():
    make("square1.jpg")
    assert paths("square[1].jpg") == ["square1.jpg"]


@pytest.mark.parametrize("pattern", ["no*.jpg", "nowhere/*.jpg", "nowhere/**/*.jpg", "**/nothing"])
def test_a_glob_without_a_match_is_an_error(pattern):
    assert only(pattern) == Input(pattern, "no such file, folder or glob match")


def test_a_name_that_is_not_utf8_is_kept():
    name = os.fsdecode(b"d/\xff.jpg")
    make(name)
    assert paths("d") == [name]
    assert paths("d/*") == [name]


def make_socket(path: str) -> None:
    socket.socket(socket.AF_UNIX).bind(path)


@pytest.mark.parametrize(
    ("make_it", "reason"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: os.symlink("nowhere", path), "a link to something that is not there"),
        (lambda path: os.symlink(path, path), "too many levels of symbolic links"),
        (os.mkfifo, "a named pipe, not an image file"),
        (make_socket, "a socket, not an image file"),
        (lambda path: os.symlink("/dev/null", path), "a device, not an image file"),
        (os.mkdir, "a folder, not an image file; to read what is in it, give it with a slash at the end"),
    ],
    ids=["missing", "dangling", "link to itself", "named pipe", "socket", "device", "folder"],
)
def test_what_cannot_be_an_image_is_an_input_with_its_reason(make_it, reason):
    make_it("x.jpg")
    assert only("x.jpg") == Input("x.jpg", reason)


def test_odd_things_in_a_folder_stand_among_its_images():
    make("d/a.jpg", "d/z.jpg")
    os.mkfifo("d/pipe.jpg")
    os.symlink("nowhere", "d/lost.jpg")
    os.mkdir("d/folder.jpg")
    assert [(item.path, item.error is None) for item in iter_paths(["d"])] == [
        ("d/a.jpg", True),
        ("d/folder.jpg", False),
        ("d/lost.jpg", False),
        ("d/pipe.jpg", False),
        ("d/z.jpg", True),
    ]


def test_a_folder_with_the_name_of_an_image_is_read_with_a_slash_at_the_end():
    make("x.jpg/1.png")
    assert paths("x.jpg/") == ["x.jpg/1.png"]


def test_too_long_a_name_is_an_error():
    assert only("x" * 300 + ".jpg").error == "file name too long"


def test_hidden_files_and_folders_are_passed_over_as_a_glob_does():
    make("card/a.jpg", "card/._a.jpg", "card/.thumbnails/a.jpg", "card/b/.c.png")
    assert paths("card") == paths("card/**/*.jpg") == ["card/a.jpg"]


def test_a_hidden_file_that_is_named_itself_is_an_input():
    make("d/.a.jpg")
    assert paths("d/.a.jpg") == ["d/.a.jpg"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("s-{8..11}.tar", ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]),
        ("s-{2..0}.tar", ["s-2.tar", "s-1.tar", "s-0.tar"]),
        ("{a,b}/{1..2}.jpg", ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]),
        ("{x}{a,b}.jpg", ["{x}a.jpg", "{x}b.jpg"]),
        ("{}.jpg", ["{}.jpg"]),
        ("{a.jpg", ["{a.jpg"]),
    ],
)
def test_braces_stand_for_words_and_numbers(given, expected):
    assert paths(given) == expected


def test_braces_of_more_numbers_than_memory_holds_are_expanded_as_they_are_asked_for():
    assert next(iter_paths(["{0..999999999999}.jpg"])).path == "0.jpg"


def test_a_name_with_braces_that_exists_is_that_file():
    make("{a,b}.jpg")
    assert paths("{a,b}.jpg") == ["{a,b}.jpg"]


def test_braces_and_globs_go_together():
    make("d/a.jpg", "d/b.png", "d/c.gif")
    assert paths("d/*.{png,jpg}") == ["d/b.png", "d/a.jpg"]


@pytest.mark.parametrize("url", ["https://example.com/a.jpg", "s3://bucket/shards/*.tar", "gs://b/{0..9}.tar"])
def test_a_url_is_refused_in_words(url):
    reasons = {item.error for item in iter_paths([url])}
    assert reasons == {"URLs are not read: download the file first, or mount the bucket that it is in"}


def test_pictures_that_nothing_here_reads_are_inputs_too():
    make("d/a.HEIC", "d/b.cr2", "d/c.jpg", "d/d.psd", "d/e.txt")
    assert paths("d") == ["d/a.HEIC", "d/b.cr2", "d/c.jpg", "d/d.psd"]


@pytest.mark.parametrize("given", ["photos/", b"photos/", Path("photos")])
def test_one_path_in_place_of_a_list_is_refused(given):
    with pytest.raises(TypeError, match="is one path: give a list of paths"):
        PathInputs(given)


def test_paths_may_be_path_objects():
    make("d/a.jpg")
    assert [item.path for item in PathInputs([Path("d")])] == ["d/a.jpg"]


def test_a_plan_counts_inputs_and_tells_files_from_errors():
    make("d/a.jpg", "d/b.jpg")
    plan = Plan(PathInputs(["d", "nowhere", "d/a.jpg"]))
    assert (plan.total, plan.readable) == (4, True)
    assert not Plan(PathInputs(["nowhere"])).readable


def test_inputs_are_found_as_they_are_asked_for():
    make("a.jpg")
    stream = iter_paths(["a.jpg", "b.jpg"])
    next(stream)
    make("b.jpg")
    assert next(stream) == Input("b.jpg")
