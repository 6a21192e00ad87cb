# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds a process: streams that are closed or full, Ctrl-C, terminals, odd names, homes and locales."""

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from coca_hf.batch_inference.progress import ProgressLines


pytestmark = pytest.mark.slow


@pytest.fixture
def many_images(folder) -> Path:
    """Enough of them, and large enough, for a run that can be interrupted."""
    (folder / "many").mkdir()
    Image.effect_noise((1500, 1500), 50).convert("RGB").save("many/0.jpg")
    for number in range(1, 2000):
        os.link("many/0.jpg", f"many/{number}.jpg")
    return folder / "many"


@pytest.mark.parametrize("output", [[], ["--output", "-"]], ids=["text", "records"])
def test_a_reader_that_has_enough_ends_the_run_quietly(command, model, images, output):
    arguments = ["caption", *images * 20, "--model", model, "--batch-size", "1", "--quiet", *output]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


def test_a_full_stdout_is_one_line(coca_process, model, images):
    with open("/dev/full", "w") as full:
        result = coca_process("caption", *images, "--model", model, stdout=full)
    assert (result.code, result.err) == (1, "coca-hf caption: cannot write to stdout: no space left on device.\n")


def test_a_full_output_is_one_line(coca, model, images):
    result = coca("caption", *images, "--model", model, "--output", "/dev/full")
    assert (result.code, result.err) == (1, "coca-hf caption: cannot write to '/dev/full': no space left on device.\n")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_full_stderr_is_no_reason_to_stop(coca_process, model, images, workers):
    arguments = ["caption", *images, "gone.jpg", *images, "--model", model, "--output", "out.jsonl"]
    with open("/dev/full", "w") as full:
        result = coca_process(*arguments, "--workers", workers, stderr=full)
    assert result.code == 1
    written = [json.loads(line)["image"] for line in Path("out.jsonl").read_text().splitlines()]
    assert written == [*images, "gone.jpg", *images]


def test_closed_streams_do_no_harm(coca_process, model, images):
    def close_all() -> None:
        for descriptor in (0, 1, 2):
            os.close(descriptor)

    arguments = ["caption", *images, "gone.jpg", "--model", model, "--output", "out.jsonl"]
    result = coca_process(*arguments, stdout=None, stderr=None, preexec_fn=close_all)
    assert result.code == 1
    assert [json.loads(line)["image"] for line in Path("out.jsonl").read_text().splitlines()] == [*images, "gone.jpg"]


def test_a_name_that_is_not_utf8_goes_through(coca_process, model, images):
    os.rename(images[0], b"\xff.jpg")
    result = coca_process(b"caption", b"\xff.jpg", "--model", model, "--output", "-")
    assert result.code == 0
    assert os.fsencode(json.loads(result.out)["image"]) == b"\xff.jpg"


def test_no_home_no_network_and_a_plain_locale_are_fine(coca_process, model, images):
    environment = {
        "HOME": "/proc/nowhere",
        "HF_HOME": "/proc/nowhere",
        "LC_ALL": "C",
        "https_proxy": "http://localhost:1",
    }
    environment["HF_HUB_OFFLINE"] = "0"
    result = coca_process("caption", *images, "--model", model, environment=environment)
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == 3


def interrupt(process) -> str:
    """What it had said on stderr when it was over."""
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130
    assert Path("stdout").read_text() == ""
    return Path("stderr").read_text()


def test_an_interrupted_run_keeps_its_records(start, model, many_images, wait_for):
    output = Path("out.jsonl")
    process = start("caption", "many", "--model", model, "--batch-size", "1", "--output", str(output))
    wait_for(lambda: output.exists() and output.stat().st_size > 1000)
    err = interrupt(process)
    records = [json.loads(line) for line in output.read_text("ascii").splitlines()]
    stopped = f"coca-hf caption: stopped after {len(records)} of 2,000 inputs; their records are in out.jsonl"
    stopped += "; the same command continues"
    assert err.splitlines()[-1] == stopped
    assert output.read_text("ascii").endswith("\n")


def test_an_interrupted_run_leaves_no_half_array(start, model, many_images, wait_for):
    process = start("embed", "many", "--model", model, "--batch-size", "1", "--workers", "0", "--output", "out.npy")
    wait_for(lambda: sum(path.stat().st_size for path in Path().glob("out.npy.records/*.log")) > 1000)
    err = interrupt(process)
    stopped = r"coca-hf embed: stopped after \d+ of 2,000 inputs; finished work is in out.npy.records"
    stopped += "; out.npy is not complete; the same command continues"
    assert re.fullmatch(stopped, err.splitlines()[-1])
    assert not os.path.exists("out.npy")


def test_an_interruption_while_inputs_are_counted_is_one_line(coca, model, monkeypatch):
    def interrupt(inputs):
        raise KeyboardInterrupt

    monkeypatch.setattr("coca_hf.batch_inference.plan.PathInputs.listed", interrupt)
    result = coca("caption", "photos", "--model", model, "--output", "out.jsonl")
    assert (result.code, result.out, result.err) == (130, "", "coca-hf caption: stopped while looking for inputs\n")
    assert os.listdir() == []


def test_an_interruption_while_the_model_loads_is_one_line(command, model, images, wait_for):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "caption", *images, "--model", model], start_new_session=True, **pipes)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text())
    # As a terminal does: the processes that will read images hear of it, too.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "coca-hf caption: stopped after 0 of 3 inputs\n"


def test_on_a_terminal_a_bar_stands_below_the_captions_and_goes(command, model, images):
    leader, follower = pty.openpty()
    arguments = [*command, "caption", *images, "--model", model, "--batch-size", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=follower, text=True)
    os.close(follower)
    shown = b""
    while chunk := read_terminal(leader):
        shown += chunk
    assert process.wait(timeout=60) == 0
    assert b"loading the model" in shown
    assert re.search(rb"2 of 3, \d+\.\d/s, \d+\.\d s left", shown)
    # The last line that was drawn is erased, by spaces over it.
    assert re.search(rb"\r +\r$", shown)
    assert len(process.stdout.read().splitlines()) == 3


def read_terminal(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the other end is closed
        return b""


def test_without_a_terminal_a_line_comes_now_and_then():
    now = 0.0
    told: list[str] = []
    lines = ProgressLines(told.append, interval_seconds=10, clock=lambda: now)
    lines.begin(2000)
    for now in (4.0, 8.0, 12.0, 16.0, 20.0, 24.0):  # noqa: B007 - read by the clock
        lines.advance(100)
    assert told == [
        "300 of 2,000, 25.0/s, 1 min 8 s left",
        "600 of 2,000, 25.0/s, 56.0 s left",
    ]
