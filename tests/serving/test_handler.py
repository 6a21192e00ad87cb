# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The handler beside a published model, called as Inference Endpoints call it where coca_hf is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import coca_hf
from coca_hf.cli import main
from coca_hf.publishing import check
from coca_hf.publishing.plan import plan_publication
from coca_hf.serving import HANDLER_FILES
from tiny_folder import save_tiny_folder


# What the service does: it imports handler.py of the repository and gives it what its decoders make of a body.
SERVICE = """
import base64, functools, http.server, importlib.util, io, json, sys, threading
sys.modules["coca_hf"] = None
folder, picture = sys.argv[1:]
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
from PIL import Image

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder + "/pictures"))
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/one.png"
content = open(picture, "rb").read()
encoded = base64.b64encode(content).decode()
image = Image.open(picture)
uri = "data:image/png;base64," + encoded
beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4}
short = {"max_new_tokens": 6, "num_beams": 2}

def answer(data):
    try:
        return json.loads(json.dumps(handler(data)))
    except ValueError as error:
        return str(error)

answers = {
    "image": answer({"inputs": image, "parameters": short}),
    "bytes, base64, data": answer({"inputs": [content, encoded, uri], "parameters": short}),
    "prompts": answer({"inputs": [{"image": encoded, "text": "a photo of"}, {"image": encoded, "text": "two"}],
                       "parameters": {"max_new_tokens": 3}}),
    "several": answer({"inputs": encoded, "parameters": beams}),
    "labels": answer({"inputs": encoded, "parameters": {"candidate_labels": ["a cube", "a ball"]}}),
    "embed": answer({"inputs": [encoded, {"text": "a red cube"}], "parameters": {"task": "embed"}}),
    "own network": answer({"inputs": address}),
    "code": answer({"inputs": encoded, "parameters": {"custom_generate": "someone/code"}}),
    "no image": answer({"inputs": base64.b64encode(b"words").decode()}),
    "many beams": answer({"inputs": [encoded, encoded], "parameters": {"num_beams": 300}}),
    "no beam": answer({"inputs": encoded, "parameters": {"num_beams": 0}}),
    "a word": answer({"inputs": encoded, "parameters": {"max_new_tokens": "six"}}),
    "nothing": answer({"inputs": []}),
    "one label": answer({"inputs": encoded, "parameters": {"candidate_labels": ["a cube"]}}),
    "task": answer({"inputs": encoded, "parameters": {"task": "draw"}}),
    "words": answer({"inputs": "what is this?"}),
}
handler.allows_private_addresses = True
answers["address"] = answer({"inputs": address, "parameters": short})
answers["gone"] = answer({"inputs": address + "x"})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """As `coca-hf push --endpoint` leaves it."""
    folder = save_tiny_folder(tmp_path_factory.mktemp("repository"))
    for name, path in HANDLER_FILES.items():
        (folder / name).write_bytes(path.read_bytes())
    (folder / "pictures").mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "pictures" / "one.png")
    return folder


@pytest.fixture(scope="module")
def answers(repository, tmp_path_factory) -> dict:
    command = [sys.executable, "-c", SERVICE, str(repository), str(repository / "pictures" / "one.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path_factory.mktemp("cwd"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_image_is_captioned_as_by_the_model(repository, answers):
    model = coca_hf.load(repository, dtype="float32")
    processor = coca_hf.CoCaProcessor.from_pretrained(repository)
    inputs = processor(images=Image.open(repository / "pictures" / "one.png"), return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=6, num_beams=2)
    expected = " ".join(processor.decode(ids[0], skip_special_tokens=True).split())
    assert answers["image"] == [{"generated_text": expected}]
    assert answers["bytes, base64, data"] == 3 * answers["image"]
    assert answers["address"] == answers["image"]


def test_prompts_are_continued_and_several_captions_returned(answers):
    assert [each["generated_text"][:3] for each in answers["prompts"]] == ["a p", "two"]
    assert [len(each) for each in answers["several"]] == [2]


def test_labels_and_embeddings_are_answered(answers):
    (labels,) = answers["labels"]
    assert {each["label"] for each in labels} == {"a cube", "a ball"}
    assert sum(each["score"] for each in labels) == pytest.approx(1, abs=1e-5)
    image, text = answers["embed"]
    assert len(image) == len(text) == 12
    assert sum(value**2 for value in image) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("own network", "it is an address of a private network"),
        ("code", "custom_generate is no parameter of generate() that a request may give"),
        ("no image", "an input cannot be read as an image: it has no known format"),
        ("many beams", "num_beams=300 for 2 images is more than 512 rows"),
        ("no beam", "num_beams=0 is to be a whole number"),
        ("a word", "generate() cannot use these parameters"),
        ("nothing", "inputs holds 0 images: give 1 to 64"),
        ("one label", "candidate_labels is to be a list of two labels or more"),
        ("task", "task='draw' is not one of caption, embed, classify"),
        ("words", "neither base64 nor an address"),
        ("gone", "cannot fetch http://127.0.0.1"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(answers, request_, message):
    assert message in answers[request_]


def test_push_puts_the_handler_beside_the_model(repository, capsys, monkeypatch):
    # Loading it takes half a minute, and is what other tests of publishing are about.
    monkeypatch.setattr(check, "check_loads", lambda publication: None)
    before = plan_publication(repository, "someone/photos").sizes
    assert {"handler.py", "requirements.txt"}.isdisjoint(before)
    assert main(["push", str(repository), "someone/photos", "--endpoint", "--dry-run", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "  handler.py\n" in shown
    assert "  requirements.txt\n" in shown
