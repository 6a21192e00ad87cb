# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A saved folder reaches the Hub whole or not at all, whatever goes wrong on the way; others load it from there.

Every push and pull runs huggingface_hub's own client, in a process of its own, against a server on loopback.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from coca_hf import CoCaForCaptioning, CoCaProcessor
from coca_hf.publishing import PublishingError, check, plan_publication
from coca_hf.publishing.card import folder_card
from coca_hf.publishing.plan import CODE, check_branch
from coca_hf.publishing.push import without_secrets
from hub_server import READER, WRITER, Hub, serve_hub
from tiny_folder import save_tiny_folder


REPOSITORY = "someone/tiny"
SAVED = {
    *CODE,
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
PUBLISHED = {*SAVED, "README.md"}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def said(self) -> dict:
        """The JSON object that a script printed last."""
        assert self.code == 0, self.err
        return json.loads(self.out.splitlines()[-1])


def environment(home: Path, hub: Hub | None, token: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    kept |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    kept |= {"HF_ENDPOINT": hub.endpoint} if hub else {}
    return kept | ({"HF_TOKEN": token} if token else {})


def run(home: Path, hub: Hub | None, command: list[str], token: str | None = WRITER, **settings: str) -> Result:
    """A Python process that knows the Hub and a token, and shares nothing else with this one."""
    process = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(home, hub, token) | settings,
    )
    return Result(process.returncode, process.stdout, process.stderr)


# As the script `coca-hf` starts it, which imports no more than a command needs.
COMMAND = "import sys, coca_hf_command; sys.exit(coca_hf_command.main())"


def push(home: Path, hub: Hub | None, *arguments: str, **settings: str) -> Result:
    return run(home, hub, ["-c", COMMAND, "push", *arguments], **settings)


# Without the check by loading, which is the same whatever the Hub does, and takes seconds.
UNCHECKED = """
import sys, coca_hf_command
from coca_hf.cli import main
from coca_hf.publishing import check
check.check_loads = lambda publication: None
sys.exit(main(["push", *sys.argv[1:]]))
"""


def push_unchecked(home: Path, hub: Hub, *arguments: str, **settings: str) -> Result:
    return run(home, hub, ["-c", UNCHECKED, *arguments], **settings)


PUBLISH = """
import json, sys, coca_hf_command  # what registers the model's classes is not needed, and takes seconds
from coca_hf.publishing import PublishingError, plan_publication, publish
folder, repository, options = sys.argv[1:]
try:
    done = publish(plan_publication(folder, repository), **json.loads(options))
    print(json.dumps({"commit": done.commit, "url": done.url}))
except PublishingError as error:
    print(json.dumps({"error": str(error)}))
"""


def publish(home: Path, hub: Hub, folder: Path, token: str | None = WRITER, **options: object) -> dict:
    return run(home, hub, ["-c", PUBLISH, str(folder), REPOSITORY, json.dumps(options)], token).said()


PULL = """
import json, sys
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
repository, revision = sys.argv[1:]
try:
    print(json.dumps({"folder": snapshot_download(repository, revision=revision)}))
except RepositoryNotFoundError as error:
    print(json.dumps({"error": str(error)}))
"""


def pull(home: Path, hub: Hub, revision: str = "main", token: str | None = WRITER) -> dict:
    return run(home, hub, ["-c", PULL, REPOSITORY, revision], token).said()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """What save_pretrained of model and processor writes."""
    return save_tiny_folder(tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture(scope="module")
def original(bare, tmp_path_factory) -> Path:
    """The same with a card."""
    folder = tmp_path_factory.mktemp("carded") / "tiny"
    shutil.copytree(bare, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "README.md").write_text(folder_card(config))
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


@pytest.fixture
def hub():
    with serve_hub() as hub:
        yield hub


# --- the command, from the folder to a stranger's caption ------------------------------------------------------------


JUNK = (
    "training_args.bin",
    "optimizer.pt",
    "rng_state.pth",
    "pytorch_model.bin",
    "trainer_state.json",
    ".env",
    "notes.txt",
    "checkpoint-3/model.safetensors",
    "__pycache__/modeling_coca.cpython-311.pyc",
    ".cache/huggingface/token",
)


@pytest.fixture(scope="module")
def pushed(bare, tmp_path_factory):
    """A Hub that the command has brought a folder to, a folder with much in it that is nobody's business."""
    root = tmp_path_factory.mktemp("pushed")
    folder = Path(shutil.copytree(bare, root / "tiny"))
    for name in JUNK:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"private")
    with serve_hub() as hub:
        result = push(root / "home", hub, str(folder), REPOSITORY, "--message", "Here it is")
        yield hub, folder, result


def test_the_command_says_what_it_did_and_where_it_is(pushed):
    hub, _, result = pushed
    commit = hub.repositories[REPOSITORY].branches["main"]
    assert result.code == 0, result.err
    assert result.out == f"{hub.endpoint}/{REPOSITORY}/commit/{commit}\n"
    assert result.err.startswith(f"coca-hf push: {len(PUBLISHED)} files, ")
    assert len(result.err.splitlines()) == 1


def test_model_processor_code_and_card_come_with_one_commit(pushed):
    hub, folder, _ = pushed
    assert [commit.title for commit in hub.repositories[REPOSITORY].history()] == ["Here it is"]
    files = hub.files(REPOSITORY)
    assert files.keys() == PUBLISHED
    assert {name: files[name] for name in SAVED} == {name: (folder / name).read_bytes() for name in SAVED}


def test_a_folder_without_a_card_gets_one_that_names_its_repository(pushed):
    card = pushed[0].files(REPOSITORY)["README.md"].decode()
    assert "pipeline_tag: image-to-text" in card
    assert f'pipeline("image-to-text", model="{REPOSITORY}", trust_remote_code=True)' in card
    assert not (pushed[1] / "README.md").exists()


def test_the_token_goes_to_the_hub_only_and_is_written_nowhere(pushed, tmp_path_factory):
    hub, folder, result = pushed
    assert WRITER not in result.out + result.err
    assert "a token reached the storage" not in hub.requests
    home = folder.parent / "home"
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert WRITER.encode() not in written
    assert not any(WRITER.encode() in content for content in hub.files(REPOSITORY).values())


STRANGER = """
import json, sys
sys.modules["coca_hf"] = None
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
repository, revision, image = sys.argv[1:]
image = Image.open(image)
place = {"revision": revision, "trust_remote_code": True}
processor = AutoProcessor.from_pretrained(repository, **place)
towers = AutoModel.from_pretrained(repository, **place)
inputs = processor(images=image, text="a photo of", return_tensors="pt")
with torch.inference_mode():
    embeds = towers(**inputs).image_embeds.tolist()
captioner = pipeline("image-to-text", repository, device="cpu", **place)
print(json.dumps({"embeds": embeds, "captions": captioner(image, max_new_tokens=6)}))
"""


def test_a_stranger_loads_what_was_pushed_by_its_commit(pushed, tmp_path):
    hub, folder, _ = pushed
    image = tmp_path / "photo.png"
    Image.effect_mandelbrot((40, 30), (-3, -2.5, 2, 2.5), 100).convert("RGB").save(image)
    commit = hub.repositories[REPOSITORY].branches["main"]
    found = run(tmp_path / "home", hub, ["-c", STRANGER, REPOSITORY, commit, str(image)], token=None).said()

    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    inputs = processor(images=Image.open(image), text="a photo of", return_tensors="pt")
    with torch.inference_mode():
        embeds = model.model(**inputs).image_embeds
    ids = model.generate(pixel_values=inputs["pixel_values"], max_new_tokens=6)
    assert found["embeds"] == embeds.tolist()
    assert found["captions"] == [{"generated_text": processor.decode(ids[0], skip_special_tokens=True)}]


@pytest.mark.slow
def test_a_dry_run_shows_files_sizes_and_card_and_asks_the_hub_nothing(original, tmp_path, hub):
    (folder := Path(shutil.copytree(original, tmp_path / "tiny")) / "optimizer.pt").write_bytes(b"private")
    place = str(folder.parent)
    result = push_unchecked(tmp_path / "home", hub, place, REPOSITORY, "--private", "--dry-run", token=None)
    assert result.code == 0, result.err
    assert result.err == ""
    assert hub.requests == []
    first, *rest = result.out.splitlines()
    assert first == f"{REPOSITORY}, private, branch main: Publish model, processor, code and card"
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in rest[: len(PUBLISHED)]}
    on_disk = {name: (folder.parent / name).stat().st_size for name in SAVED}
    assert {name: listed[name] for name in SAVED} == on_disk
    assert rest[len(PUBLISHED)].split() == [f"{sum(listed.values()):,}", "bytes", "in", str(len(PUBLISHED)), "files"]
    assert rest[len(PUBLISHED) + 1] == "not sent: optimizer.pt"
    card = (folder.parent / "README.md").read_text().replace("OWNER/NAME", REPOSITORY)
    assert result.out.endswith(f"\n\n{card}\n")


def test_a_folder_that_does_not_load_is_not_sent(folder, tmp_path, hub):
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["vision_config"], config["text_config"]):
        part["projection_dim"] += 4
    (folder / "config.json").write_text(json.dumps(config))
    result = push(tmp_path / "home", hub, str(folder), REPOSITORY)
    assert result.code == 1
    assert f"'{folder}' does not load where only transformers is installed" in result.err
    assert "mismatched keys" in result.err
    assert len(result.err.splitlines()) == 1
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "settings", "code", "says"),
    [
        (["nowhere", REPOSITORY], {}, 2, "There is no folder 'nowhere'"),
        ([".", REPOSITORY], {}, 2, "'.' is not a saved model's folder: it has no config.json"),
        (["{folder}", "tiny"], {}, 2, "'tiny' is no repository's name. Give owner/name"),
        (["{folder}", REPOSITORY, "--revision", ""], {}, 2, "'' is no branch's name"),
        (["{folder}", REPOSITORY], {"token": None}, 1, "without a token: run `hf auth login`"),
        (["{folder}", REPOSITORY], {"token": "hf_mine\u2026"}, 1, "the token holds characters that no token has"),
        (["{folder}", REPOSITORY], {"HF_HUB_OFFLINE": "1"}, 1, "while HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_published_is_said_in_one_line(original, tmp_path, arguments, settings, code, says):
    words = [argument.format(folder=original) for argument in arguments]
    result = push(tmp_path / "home", None, *words, **settings)
    assert result.code == code
    assert says in result.err
    assert len(result.err.splitlines()) == 1
    assert "hf_mine" not in result.err


@pytest.mark.slow
def test_what_the_client_waits_for_is_said_without_the_address(bare, tmp_path, hub):
    hub.refuse("PUT", "/storage/", 429, RateLimit='"api";r=0;t=0')
    result = push_unchecked(tmp_path / "home", hub, str(bare), REPOSITORY)
    assert result.code == 0, result.err
    assert result.err.splitlines()[:2] == [
        "coca-hf push: HTTP Error 429 thrown while requesting PUT (address)",
        "coca-hf push: Rate limited. Waiting 1.0s before retry [Retry 1/5]",
    ]


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_messages_have_lines_of_their_own(bare, tmp_path, hub):
    hub.refuse("PUT", "/storage/", 500)
    command = [sys.executable, "-c", COMMAND, "push", str(bare), REPOSITORY]
    shown = on_a_terminal(command, environment(tmp_path / "home", hub, WRITER))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown)]
    assert "coca-hf push: loading it where only transformers is installed ..." in lines
    assert "coca-hf push: HTTP Error 500 thrown while requesting PUT (address)" in lines
    assert any(line.startswith("model.safetensors: 100%") for line in lines)


def on_a_terminal(command: list[str], settings: dict[str, str]) -> str:
    """What the command shows on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(command, env=settings, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how reading ends on Linux
        while some := os.read(ours, 65536):
            shown += some
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode()


@pytest.mark.slow
def test_quietly_nothing_is_said_but_the_address_of_the_commit(bare, tmp_path, hub):
    hub.refuse("POST", COMMIT, 500)
    hub.refuse("PUT", "/storage/", 503)
    result = push_unchecked(tmp_path / "home", hub, str(bare), REPOSITORY, "--quiet")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{hub.endpoint}/{REPOSITORY}/commit/")


@pytest.mark.slow
def test_a_space_is_the_page_with_the_model_beside_it_in_one_commit(bare, tmp_path, hub):
    pytest.importorskip("gradio")
    result = push(tmp_path / "home", hub, str(bare), "someone/coca-page", "--space", "--quiet")
    assert result.code == 0, result.err
    assert len(hub.repositories["someone/coca-page"].history()) == 1
    files = hub.files("someone/coca-page")
    assert {name.removeprefix("model/") for name in files if name.startswith("model/")} == PUBLISHED
    assert files.keys() - {f"model/{name}" for name in PUBLISHED} == {"README.md", "app.py", "requirements.txt"}
    card = ModelCard(files["README.md"].decode()).data
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert files["requirements.txt"].startswith(b"coca-hf[demo]==")


def test_parts_of_an_earlier_model_that_go_are_named(bare, tmp_path, hub):
    hub.add(REPOSITORY, {"adapter_config.json": b"{}", "notes.md": b"mine"})
    result = push_unchecked(tmp_path / "home", hub, str(bare), REPOSITORY)
    assert result.code == 0, result.err
    assert (
        result.err.splitlines()[-1] == "coca-hf push: removed there, as parts of an earlier model: adapter_config.json"
    )
    assert hub.files(REPOSITORY).keys() == {*PUBLISHED, "notes.md"}


@pytest.mark.slow
def test_an_interrupted_push_says_how_to_go_on_and_leaves_no_commit(bare, tmp_path, hub):
    hub.stall("PUT", "/storage/")
    command = [sys.executable, "-c", UNCHECKED, str(bare), REPOSITORY]
    process = subprocess.Popen(
        command, env=environment(tmp_path / "home", hub, WRITER), stderr=subprocess.PIPE, text=True
    )
    assert hub.stalled.wait(120)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "coca-hf push: stopped; the same command goes on where it stopped\n")
    assert hub.files(REPOSITORY) == {}


PUSH_TO_HUB = """
import sys
from coca_hf import CoCaForCaptioning, CoCaProcessor
folder, repository = sys.argv[1:]
CoCaForCaptioning.from_pretrained(folder).push_to_hub(repository)
CoCaProcessor.from_pretrained(folder).push_to_hub(repository)
"""


def test_push_to_hub_of_model_and_processor_brings_the_same_files(bare, hub, tmp_path):
    done = run(tmp_path / "home", hub, ["-c", PUSH_TO_HUB, str(bare), REPOSITORY])
    assert done.code == 0, done.err
    files = hub.files(REPOSITORY)
    assert files.keys() == PUBLISHED
    assert {name: files[name] for name in CODE} == {name: (bare / name).read_bytes() for name in CODE}
    assert files["model.safetensors"] == (bare / "model.safetensors").read_bytes()


PUSH_WITHOUT_CARD = """
import sys
import coca_hf
folder, repository, name = sys.argv[1:]
getattr(coca_hf, name).from_pretrained(folder).push_to_hub(repository)
"""


@pytest.mark.parametrize(
    ("name", "task"),
    [("CoCaForCaptioning", "image-to-text"), ("CoCaModel", "zero-shot-image-classification")],
)
def test_push_to_hub_makes_a_card_that_says_what_the_model_is(bare, hub, tmp_path, name, task):
    licensed = shutil.copytree(bare, tmp_path / "licensed")
    (licensed / "README.md").write_text("---\nlicense: mit\n---\n")
    done = run(tmp_path / "home", hub, ["-c", PUSH_WITHOUT_CARD, str(licensed), REPOSITORY, name])
    assert done.code == 0, done.err
    card = ModelCard(hub.files(REPOSITORY)["README.md"].decode())
    assert (card.data.pipeline_tag, card.data.library_name, card.data.license) == (task, "transformers", "mit")
    assert card.data.tags == ["coca", task]
    assert REPOSITORY in card.text
    assert "More Information Needed" not in card.text


def test_push_to_hub_leaves_a_card_that_is_there(bare, hub, tmp_path):
    script = (
        "import sys\nfrom huggingface_hub import create_repo, upload_file\n"
        "create_repo(sys.argv[2])\n"
        "upload_file(path_or_fileobj=b'# Mine', path_in_repo='README.md', repo_id=sys.argv[2])\n"
    )
    done = run(tmp_path / "home", hub, ["-c", script + PUSH_WITHOUT_CARD, str(bare), REPOSITORY, "CoCaModel"])
    assert done.code == 0, done.err
    assert ModelCard(hub.files(REPOSITORY)["README.md"].decode()).text.strip() == "# Mine"


# --- what else may be there ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_folder_again_makes_no_second_commit(folder, tmp_path, hub):
    first, second = (publish(tmp_path / "home", hub, folder) for _ in range(2))
    assert first == second
    assert len(hub.repositories[REPOSITORY].history()) == 1


@pytest.mark.slow
def test_an_earlier_commit_stays_what_it_was(folder, tmp_path, hub):
    before = contents(folder)
    first = publish(tmp_path / "home", hub, folder)
    model = CoCaForCaptioning.from_pretrained(folder)
    with torch.no_grad():
        model.model.logit_scale.add_(1)
    model.save_pretrained(folder)
    publish(tmp_path / "home", hub, folder)
    pinned = Path(pull(tmp_path / "one", hub, first["commit"])["folder"])
    newest = Path(pull(tmp_path / "two", hub)["folder"])
    assert (pinned / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert (newest / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert before["model.safetensors"] != (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_branch_is_made_and_the_main_one_left_alone(folder, tmp_path, hub):
    publish(tmp_path / "home", hub, folder, revision="v2/trial")
    assert hub.files(REPOSITORY, "v2/trial").keys() == PUBLISHED
    assert hub.files(REPOSITORY, "main") == {}


@pytest.mark.slow
def test_a_private_repository_needs_its_owners_token(folder, tmp_path, hub):
    publish(tmp_path / "home", hub, folder, private=True)
    assert hub.repositories[REPOSITORY].private
    assert "error" in pull(tmp_path / "one", hub, token=None)
    assert "error" in pull(tmp_path / "two", hub, token=READER)
    assert contents(Path(pull(tmp_path / "three", hub)["folder"])).keys() >= PUBLISHED


@pytest.mark.slow
def test_what_shall_be_private_is_not_sent_to_a_public_repository(folder, tmp_path, hub):
    hub.add(REPOSITORY, {"notes.md": b"public"})
    said = publish(tmp_path / "home", hub, folder, private=True)
    assert said["error"].startswith(f"The repository '{REPOSITORY}' is there already, and public.")
    assert hub.files(REPOSITORY).keys() == {"notes.md"}
    assert hub.storage == {}


@pytest.mark.slow
def test_parts_of_an_earlier_model_go_and_other_files_stay(folder, tmp_path, hub):
    earlier = {
        "model-00001-of-00002.safetensors": b"old",
        "model-00002-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        "decoding_coca.py": b"old = True",
        "special_tokens_map.json": b"{}",
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"old",
        "notes.md": b"mine",
        "pictures/cat.png": b"mine",
    }
    hub.add(REPOSITORY, earlier)
    publish(tmp_path / "home", hub, folder)
    assert hub.files(REPOSITORY).keys() == {*PUBLISHED, "notes.md", "pictures/cat.png"}
    assert len(hub.repositories[REPOSITORY].history()) == 2


def test_shards_are_published_with_their_index_and_load(folder, tmp_path, hub):
    model = CoCaForCaptioning.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    publish(tmp_path / "home", hub, folder)
    files = hub.files(REPOSITORY)
    shards = {name for name in files if name.startswith("model-")}
    assert len(shards) > 1
    assert files.keys() == {*PUBLISHED, *shards, "model.safetensors.index.json"} - {"model.safetensors"}
    loaded = CoCaForCaptioning.from_pretrained(pull(tmp_path / "other", hub)["folder"])
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_a_large_file_goes_in_parts_where_the_hub_asks_for_them(folder, tmp_path, hub):
    hub.part_bytes = 50_000
    publish(tmp_path / "home", hub, folder)
    assert sum(request.startswith("PUT /storage/") for request in hub.requests) > 2
    assert hub.files(REPOSITORY)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_pictures_that_the_card_shows_come_along(folder, tmp_path, hub):
    for name in ("examples/cat.png", "examples/my dog.png", "other.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    card = (folder / "README.md").read_text()
    card = (
        card.replace("\ntags:", "\nwidget:\n- src: examples/cat.png\ntags:", 1) + "\n![A dog](examples/my%20dog.png)\n"
    )
    (folder / "README.md").write_text(card)
    publish(tmp_path / "home", hub, folder)
    assert hub.files(REPOSITORY).keys() == {*PUBLISHED, "examples/cat.png", "examples/my dog.png"}


# --- what may go wrong on the way ------------------------------------------------------------------------------------

COMMIT, CREATE = f"/api/models/{REPOSITORY}/commit/", "/api/repos/create"
PASSING = {
    "the repository is made after an error": lambda hub: hub.refuse("POST", CREATE, 500),
    "the answer to its making is lost": lambda hub: hub.lose_answer("POST", CREATE),
    "asking for its state fails": lambda hub: hub.refuse("GET", f"/api/models/{REPOSITORY}", 502),
    "asking how to upload fails": lambda hub: hub.refuse("POST", "/preupload/", 503),
    "asking where to upload to fails": lambda hub: hub.refuse("POST", "/objects/batch", 500),
    "the storage fails": lambda hub: hub.refuse("PUT", "/storage/", 500),
    "the upload is cut in the middle": lambda hub: hub.cut("PUT", "/storage/"),
    "the answer to the upload is lost": lambda hub: hub.lose_answer("PUT", "/storage/"),
    "the checking of the upload fails": lambda hub: hub.refuse("POST", "/objects/verify", 504),
    "the rate limit is reached before the upload": lambda hub: hub.refuse("POST", "/preupload/", 429, Retry_After="0"),
    "the rate limit is reached before the commit": lambda hub: hub.refuse("POST", COMMIT, 429, Retry_After="1"),
    "the window of the rate limit ends soon": lambda hub: hub.refuse("POST", COMMIT, 429, RateLimit='"api";r=0;t=5'),
    "the commit fails": lambda hub: hub.refuse("POST", COMMIT, 500, times=2),
    "the commit is cut in the middle": lambda hub: hub.cut("POST", COMMIT),
    "the answer to the commit is lost": lambda hub: hub.lose_answer("POST", COMMIT),
    "someone else has committed meanwhile": lambda hub: hub.refuse("POST", COMMIT, 412),
}
LASTING = {
    "the storage refuses the upload": (
        lambda hub: hub.refuse("PUT", "/storage/", 403),
        "Error while uploading 'model.safetensors' to the Hub, because the answer was 403 Forbidden",
    ),
    "the commit keeps failing": (
        lambda hub: hub.refuse("POST", COMMIT, 500, times=4),
        "the answer was 500 Internal Server Error: a fault of the server",
    ),
    "the hub asks to wait for an hour": (
        lambda hub: hub.refuse("POST", COMMIT, 429, Retry_After="3600"),
        "the Hub asks to wait 3600 s, the answer was 429 Too Many Requests",
    ),
    "the window of the rate limit is long": (
        lambda hub: hub.refuse("POST", COMMIT, 429, RateLimit='"api";r=0;t=900'),
        "the Hub asks to wait 901 s, the answer was 429 Too Many Requests",
    ),
    "the commit is refused": (
        lambda hub: hub.refuse("POST", COMMIT, 400),
        "the answer was 400 Bad Request: a fault of the server",
    ),
}


PUBLISH_TWICE = """
import json, sys
from huggingface_hub import list_repo_files
from coca_hf.publishing import PublishingError, plan_publication, publish
folder, repository = sys.argv[1:]
publication, said = plan_publication(folder, repository), []
for _ in range(2):
    try:
        said.append(publish(publication).url)
    except PublishingError as error:
        said.append(str(error))
    said.append(list_repo_files(repository))
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Outcome:
    """What a push with a fault said and left, what another push then said, and the Hub after it."""

    said: str
    files: list[str]
    said_again: str
    hub: Hub

    @property
    def commits(self) -> int:
        return len(self.hub.repositories[REPOSITORY].history())


def outcome(cause, folder: Path, home: Path) -> Outcome:
    with serve_hub() as hub:
        cause(hub)
        said, files, said_again, _ = run(home, hub, ["-c", PUBLISH_TWICE, str(folder), REPOSITORY]).said()
        assert [fault.times for fault in hub.faults] == [0], "the fault did not happen"
        return Outcome(said, files, said_again, hub)


@pytest.fixture(scope="module")
def outcomes(original, tmp_path_factory) -> dict[str, Outcome]:
    """All at once: most of the time of each is waiting before another attempt."""
    causes = PASSING | {name: cause for name, (cause, _) in LASTING.items()}
    root = tmp_path_factory.mktemp("homes")
    with ThreadPoolExecutor(len(causes)) as pool:
        jobs = {
            name: pool.submit(outcome, cause, original, root / str(number))
            for number, (name, cause) in enumerate(causes.items())
        }
        return {name: job.result() for name, job in jobs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_survived(outcomes, original, name):
    found = outcomes[name]
    assert found.said.startswith(f"{found.hub.endpoint}/{REPOSITORY}/commit/")
    assert found.said_again == found.said
    assert found.files == sorted({*PUBLISHED, ".gitattributes"})
    assert found.commits == 1
    assert found.hub.files(REPOSITORY)["model.safetensors"] == (original / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_is_told_with_repository_and_cause_and_leaves_nothing(outcomes, name):
    found = outcomes[name]
    assert found.said.startswith(f"Cannot publish to '{REPOSITORY}': {LASTING[name][1]}")
    assert len(found.said.splitlines()) == 1
    assert "http" not in found.said
    assert found.files == [".gitattributes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LASTING)
def test_the_same_again_after_a_failure_finishes_the_job(outcomes, name):
    found = outcomes[name]
    assert found.said_again.startswith(f"{found.hub.endpoint}/{REPOSITORY}/commit/")
    assert found.hub.files(REPOSITORY).keys() == PUBLISHED
    assert found.commits == 1


@pytest.mark.slow
def test_what_has_arrived_is_not_sent_again(outcomes):
    requests = outcomes["the commit keeps failing"].hub.requests
    assert sum(request.startswith("PUT /storage/") for request in requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("hf_nobody", "the Hub does not accept the token, the answer was 401 Unauthorized: Invalid credentials"),
        (READER, "the token may not write there, the answer was 403 Forbidden"),
    ],
)
def test_a_token_that_may_not_write_is_said_so_without_showing_it(folder, tmp_path, hub, token, says):
    said = publish(tmp_path / "home", hub, folder, token=token)
    assert said["error"].startswith(f"Cannot publish to '{REPOSITORY}': {says}")
    assert token not in said["error"]
    assert hub.storage == {}


@pytest.mark.slow
def test_a_download_cut_in_the_middle_is_continued(folder, tmp_path, hub):
    publish(tmp_path / "home", hub, folder)
    hub.cut("GET", "/storage/")
    pulled = Path(pull(tmp_path / "other", hub)["folder"])
    assert (pulled / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


# --- folders that are not fit ----------------------------------------------------------------------------------------


def index_weights(*names: str):
    """Puts an index of these files in the place of the weights."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "optimizer.pt").write_bytes(b"private")
        index = {"weight_map": {f"tensor {number}": name for number, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def name_another_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"}')


def pickle_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def show_a_picture_that_is_not_there(folder: Path) -> None:
    with (folder / "README.md").open("a") as card:
        card.write("\n![A cat](cat.png)\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (lambda folder: (folder / "modeling_coca.py").unlink(), "it has no modeling_coca.py"),
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "Cannot read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (name_another_type, "holds a model of type 'clip', not 'coca'"),
        (lambda folder: (folder / "modeling_coca.py").write_text("1"), "is not the code of this release"),
        (pickle_the_weights, "has no weights"),
        (index_weights("model-00001-of-00002.safetensors"), "it has no model-00001-of-00002.safetensors"),
        (index_weights(), "does not name shards"),
        (index_weights("optimizer.pt"), "does not name shards"),
        (index_weights("../tiny/model-00001-of-00002.safetensors"), "does not name shards"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "holds both"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "Cannot read the card"),
        (show_a_picture_that_is_not_there, "shows cat.png, which is not there"),
    ],
)
def test_a_folder_that_is_not_fit_is_refused_with_what_is_wrong(folder, spoil, says):
    spoil(folder)
    with pytest.raises(PublishingError) as refusal:
        plan_publication(folder, REPOSITORY)
    assert says in str(refusal.value)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    ["tiny", "a/b/c", "/tiny", "some one/tiny", "someone/", "someone/x.git", "a--b/c", "a/b-", f"a/{'b' * 97}", ""],
)
def test_a_name_that_no_repository_can_have_is_refused(original, name):
    with pytest.raises(PublishingError, match="is no repository's name"):
        plan_publication(original, name)


@pytest.mark.parametrize("name", ["", " ", "v2 trial", "a..b", "a//b", "/v2", "v2/", "-v2", "v2~1"])
def test_a_name_that_no_branch_can_have_is_refused(name):
    with pytest.raises(PublishingError, match="is no branch's name"):
        check_branch(name)


def test_a_check_that_is_killed_says_so_rather_than_its_last_warning(original, tmp_path, monkeypatch):
    probe = tmp_path / "probe.py"
    probe.write_text("import os, sys; print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)")
    monkeypatch.setattr(check, "_PROBE", probe)
    with pytest.raises(PublishingError, match="the process that tried ended with code -9") as refusal:
        check.check_loads(plan_publication(original, REPOSITORY))
    assert "a warning" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PUT https://storage.example/a?signature=b failed", "PUT (address) failed"),
        ("Illegal header value b'Bearer hf_mine of mine'", "Illegal header value b'(token)'"),
        ("the token hf_mine\nis not valid.", "the token (token) is not valid"),
    ],
)
def test_what_is_shown_of_an_error_holds_no_address_and_no_token(text, shown):
    assert without_secrets(text) == shown
