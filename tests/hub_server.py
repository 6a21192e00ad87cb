# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A Hub on loopback: what huggingface_hub's own client asks of the real one, answered the same way, and its faults.

Repositories with branches, tags and commits; users and tokens; upload by preupload, large-file batch, checksum and
commit; download by resolve, tree and redirect to storage. It has no Xet storage: clients need HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


WRITER, READER = "hf_writer_of_someone", "hf_reader_of_other"
LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npz", ".zip", ".gz")
LARGE_BYTES = 10_000_000


@dataclass(frozen=True)
class Entry:
    """A file of a commit: its content, or for a large one what stands for it in git."""

    content: bytes
    sha256: str | None = None
    size: int = 0

    @property
    def oid(self) -> str:
        """git's name for the blob."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


def large_entry(sha256: str, size: int) -> Entry:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Entry(pointer.encode(), sha256, size)


@dataclass(frozen=True)
class Commit:
    parent: str | None
    title: str
    files: dict[str, Entry]


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit's own name stands for."""
        names = {**{sha: sha for sha in self.commits}, **self.tags, **self.branches}
        return names.get(revision)

    def commit(self, branch: str, title: str, files: dict[str, Entry]) -> str:
        parent = self.branches.get(branch)
        text = json.dumps([parent, title, len(self.commits), sorted((path, e.oid) for path, e in files.items())])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(parent, title, files)
        self.branches[branch] = sha
        return sha

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first, without the one that every repository begins with."""
        found, sha = [], self.resolve(revision)
        while sha is not None and self.commits[sha].parent is not None:
            found.append(self.commits[sha])
            sha = self.commits[sha].parent
        return found


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` whose path holds `path`.

    "refuse": answered with `status` and nothing done. "cut": the connection breaks in the middle of the upload, or of
    the answer to a GET. "lose": all is done, and the connection breaks before the answer. "stall": no answer comes
    before the Hub is closed.
    """

    method: str
    path: str
    kind: Literal["refuse", "cut", "lose", "stall"]
    times: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """An answer other than success, with the Hub's headers for it."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


@dataclass
class Hub:
    """The state of the server; `endpoint` is its address, `storage_endpoint` that of its large files."""

    endpoint: str = ""
    # Another host, as in truth: the client follows no redirect to it while it asks what a file is.
    storage_endpoint: str = ""
    users: dict[str, str] = field(default_factory=lambda: {WRITER: "someone", READER: "other"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    storage: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    part_bytes: int | None = None  # larger files are asked for in parts of this size
    lock: threading.RLock = field(default_factory=threading.RLock)
    stalled: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def add(self, repository: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """A repository that is there already."""
        made = Repository(private)
        made.commit("main", "initial commit", {".gitattributes": Entry(b"*.safetensors filter=lfs\n")})
        self.repositories[repository] = made
        if files:
            made.commit("main", "Add files", {path: self.entry(path, content) for path, content in files.items()})
        return made

    def entry(self, path: str, content: bytes) -> Entry:
        if not is_large(path, len(content), content[:512]):
            return Entry(content)
        sha256 = hashlib.sha256(content).hexdigest()
        self.storage[sha256] = content
        return large_entry(sha256, len(content))

    def content(self, entry: Entry) -> bytes:
        return self.storage[entry.sha256] if entry.sha256 else entry.content

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, without `.gitattributes`."""
        found = self.repositories[repository]
        sha = found.resolve(revision)
        assert sha is not None, f"{repository} has no revision {revision}"
        entries = found.commits[sha].files
        return {path: self.content(entry) for path, entry in entries.items() if path != ".gitattributes"}

    def refuse(self, method: str, path: str, status: int, times: int = 1, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, path, "refuse", times, status, named))

    def cut(self, method: str, path: str, times: int = 1) -> None:
        self.faults.append(Fault(method, path, "cut", times))

    def lose_answer(self, method: str, path: str, times: int = 1) -> None:
        self.faults.append(Fault(method, path, "lose", times))

    def stall(self, method: str, path: str) -> None:
        """`stalled` is set as soon as a request waits for its answer."""
        self.faults.append(Fault(method, path, "stall", 1))

    def next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file belongs to storage rather than to git."""
    return path.endswith(LARGE_SUFFIXES) or size >= LARGE_BYTES or b"\0" in sample


Route = tuple[str, re.Pattern[str], Callable[..., None]]
ROUTES: list[Route] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`{repo}` stands for owner/name, `{name}` for one part of a path, `{path:}` for the rest."""
    pattern = pattern.replace("{repo}", "(?P<repo>[^/]+/[^/]+)")
    pattern = re.sub(r"\{(\w+):\}", r"(?P<\1>.*)", pattern)
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)

    def register(handle: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((method, re.compile(pattern), handle))
        return handle

    return register


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - names that http.server looks up

    def log_message(self, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.hub.requests.append(f"{self.command} {parts.path}")
        if "/storage/" in parts.path and "complete" not in parts.path and self.headers.get("Authorization"):
            self.hub.requests.append("a token reached the storage")
        fault = self.hub.next_fault(self.command, parts.path)
        self.loses_answer = fault is not None and fault.kind == "lose"
        self.cuts_answer = fault is not None and fault.kind == "cut" and self.command == "GET"
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.kind == "stall":
            self.hub.stalled.set()
            self.hub.closed.wait()
            self.close_connection = True
            return
        if fault is not None and fault.kind == "cut" and not self.cuts_answer:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        self.body = self.read_chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        try:
            if fault is not None and fault.kind == "refuse":
                self.answer_json(fault.status, {"error": "a fault of the server"}, **fault.headers)
                return
            with self.hub.lock:
                self.find_route(parts.path)
        except RefusalError as refusal:
            self.answer_json(refusal.status, {"error": str(refusal)}, **refusal.headers)

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def find_route(self, path: str) -> None:
        command = "GET" if self.command == "HEAD" else self.command
        # A Space differs from a model in its address alone.
        path = re.sub(r"^(/api)?/spaces/", lambda match: "/api/models/" if match[1] else "/", path)
        for method, pattern, handle in ROUTES:
            match = pattern.fullmatch(path) if method == command else None
            if match:
                handle(self, **{name: unquote(value) for name, value in match.groupdict().items()})
                return
        raise RefusalError(404, f"no such address: {self.command} {path}")

    def json(self) -> Any:
        return json.loads(self.body)

    def answer_json(self, status: int, value: Any, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        if self.loses_answer:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.cuts_answer else body)
        if self.cuts_answer:
            self.close_connection = True

    # --- who may do what -------------------------------------------------------------------------------------------

    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.users:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def readable(self, repo: str) -> Repository:
        user = self.user()
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and user != repo.split("/")[0]):
            raise RefusalError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def writable(self, repo: str) -> Repository:
        found = self.readable(repo)
        if self.user() != repo.split("/")[0]:
            raise RefusalError(403, "You do not have write access to this repository")
        return found

    def commit_of(self, found: Repository, revision: str) -> tuple[str, Commit]:
        sha = found.resolve(revision)
        if sha is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, found.commits[sha]


# --- accounts and repositories ---------------------------------------------------------------------------------------


@route("GET", "/api/whoami-v2")
def whoami(http: Handler) -> None:
    name = http.user()
    if name is None:
        raise RefusalError(401, "Invalid username or password.")
    http.answer_json(200, {"type": "user", "name": name, "orgs": []})


@route("POST", "/api/repos/create")
def create_repository(http: Handler) -> None:
    wanted, user = http.json(), http.user()
    if user is None:
        raise RefusalError(401, "Invalid username or password.")
    owner = wanted.get("organization") or user
    if owner != user:
        raise RefusalError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    name = f"{owner}/{wanted['name']}"
    if name in http.hub.repositories:
        address = f"{http.hub.endpoint}/{name}"
        http.answer_json(409, {"error": "You already created this model repo", "url": address})
        return
    http.hub.add(name, {}, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
    http.answer_json(200, {"url": f"{http.hub.endpoint}/{name}", "name": name})


@route("GET", "/api/models/{repo}")
def model_info(http: Handler, repo: str) -> None:
    revision_info(http, repo, "main")


@route("GET", "/api/models/{repo}/revision/{revision}")
def revision_info(http: Handler, repo: str, revision: str) -> None:
    found = http.readable(repo)
    sha, commit = http.commit_of(found, revision)
    files = [{"rfilename": path} for path in sorted(commit.files)]
    http.answer_json(200, {"id": repo, "modelId": repo, "sha": sha, "private": found.private, "siblings": files})


@route("GET", "/api/models/{repo}/refs")
def refs(http: Handler, repo: str) -> None:
    found = http.readable(repo)
    kinds = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
    listed = {
        kind: [{"name": n, "ref": f"refs/{prefix}/{n}", "targetCommit": sha} for n, sha in names.items()]
        for kind, (prefix, names) in kinds.items()
    }
    http.answer_json(200, {"converts": [], **listed})


@route("POST", "/api/models/{repo}/branch/{branch}")
def create_branch(http: Handler, repo: str, branch: str) -> None:
    found = http.writable(repo)
    if branch in found.branches:
        raise RefusalError(409, "Reference already exists")
    start = http.json().get("startingPoint", "main") if http.body else "main"
    found.branches[branch] = http.commit_of(found, start)[0]
    http.answer_json(200, {})


@route("POST", "/api/models/{repo}/tag/{revision}")
def create_tag(http: Handler, repo: str, revision: str) -> None:
    found = http.writable(repo)
    found.tags[http.json()["tag"]] = http.commit_of(found, revision)[0]
    http.answer_json(200, {})


@route("GET", "/api/models/{repo}/commits/{revision}")
def commits(http: Handler, repo: str, revision: str) -> None:
    found = http.readable(repo)
    sha: str | None = http.commit_of(found, revision)[0]
    listed = []
    while sha is not None:
        listed.append({"id": sha, "title": found.commits[sha].title, "message": "", "authors": [], "date": DATE})
        sha = found.commits[sha].parent
    http.answer_json(200, listed)


DATE = "2026-01-01T00:00:00.000Z"


# --- upload ----------------------------------------------------------------------------------------------------------


@route("POST", "/api/validate-yaml")
def validate_yaml(http: Handler) -> None:
    header = re.match(r"---\n(.*?)\n---", http.json()["content"], re.DOTALL)
    try:
        metadata = yaml.safe_load(header.group(1)) if header else {}
    except yaml.YAMLError as error:
        http.answer_json(400, {"errors": [{"message": f"Invalid YAML: {error}"}], "warnings": []})
        return
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    license_name = (metadata or {}).get("license", "mit")
    errors = [] if isinstance(license_name, str) else [{"message": '"license" must be a string'}]
    http.answer_json(400 if errors else 200, {"errors": errors, "warnings": warnings})


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(http: Handler, repo: str, revision: str) -> None:
    found = http.writable(repo)
    there = http.commit_of(found, revision)[1].files
    answers = []
    for file in http.json()["files"]:
        large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
        answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        entry = there.get(file["path"])
        answers.append(answer if entry is None else {**answer, "oid": entry.sha256 or entry.oid})
    http.answer_json(200, {"files": answers})


@route("POST", "/{repo}\\.git/info/lfs/objects/batch")
def large_file_batch(http: Handler, repo: str) -> None:
    http.writable(repo)
    http.answer_json(200, {"transfer": "basic", "objects": [upload_of(http, repo, o) for o in http.json()["objects"]]})


def upload_of(http: Handler, repo: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Where to upload an object to, in one piece or in parts; nowhere if it is there."""
    oid, size, base = wanted["oid"], wanted["size"], http.hub.storage_endpoint
    if oid in http.hub.storage:
        return {"oid": oid, "size": size}
    upload: dict[str, Any] = {"href": f"{base}/storage/{oid}?signature=secret"}
    part = http.hub.part_bytes
    if part is not None and size > part:
        addresses = {f"{n:05}": f"{base}/storage/{oid}/{n}" for n in range(1, math.ceil(size / part) + 1)}
        upload = {"href": f"{base}/storage/{oid}/complete", "header": {"chunk_size": str(part), **addresses}}
    verify = {"href": f"{http.hub.endpoint}/{repo}.git/info/lfs/objects/verify"}
    return {"oid": oid, "size": size, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def store(http: Handler, oid: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != oid:
        raise RefusalError(400, "The checksum you specified did not match what we received.")
    http.hub.storage[oid] = content


@route("PUT", "/storage/{oid}")
def put_object(http: Handler, oid: str) -> None:
    store(http, oid, http.body)
    http.answer(200, ETag=f'"{oid}"')


@route("PUT", "/storage/{oid}/{number}")
def put_part(http: Handler, oid: str, number: str) -> None:
    http.hub.parts[oid, int(number)] = http.body
    http.answer(200, ETag=f'"{hashlib.md5(http.body).hexdigest()}"')


@route("POST", "/storage/{oid}/complete")
def complete_parts(http: Handler, oid: str) -> None:
    numbers = [part["partNumber"] for part in http.json()["parts"]]
    store(http, oid, b"".join(http.hub.parts.pop((oid, number)) for number in numbers))
    http.answer_json(200, {"success": True})


@route("POST", "/{repo}\\.git/info/lfs/objects/verify")
def verify_object(http: Handler, repo: str) -> None:
    http.writable(repo)
    wanted = http.json()
    if len(http.hub.storage.get(wanted["oid"], b"")) != wanted["size"]:
        raise RefusalError(404, "The object does not exist in the storage")
    http.answer_json(200, {})


@route("POST", "/api/models/{repo}/commit/{revision}")
def commit(http: Handler, repo: str, revision: str) -> None:
    found = http.writable(repo)
    if revision not in found.branches:
        raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    head = found.branches[revision]
    files, title = dict(found.commits[head].files), ""
    for line in http.body.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] == "header":
            title = value["summary"]
            if value.get("parentCommit", head) != head:
                raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        elif operation["key"] == "file":
            files[value["path"]] = Entry(base64.b64decode(value["content"]))
        elif operation["key"] == "lfsFile":
            if value["oid"] not in http.hub.storage:
                raise RefusalError(400, f"Your push was rejected: the object of {value['path']} is missing")
            files[value["path"]] = large_entry(value["oid"], value["size"])
        elif files.pop(value["path"], None) is None:
            raise RefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
    sha = found.commit(revision, title, files)
    address = f"{http.hub.endpoint}/{repo}/commit/{sha}"
    http.answer_json(200, {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})


# --- download --------------------------------------------------------------------------------------------------------


def listing(path: str, entry: Entry) -> dict[str, Any]:
    item = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size or len(entry.content)}
    if entry.sha256 is None:
        return item
    return {**item, "lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": len(entry.content)}}


@route("GET", "/api/models/{repo}/tree/{revision}")
def tree(http: Handler, repo: str, revision: str) -> None:
    subtree(http, repo, revision, "")


@route("GET", "/api/models/{repo}/tree/{revision}/{path:}")
def subtree(http: Handler, repo: str, revision: str, path: str) -> None:
    files = http.commit_of(http.readable(repo), revision)[1].files
    inside = {name: entry for name, entry in files.items() if not path or name.startswith(f"{path}/")}
    if path and not inside:
        raise RefusalError(404, f"{path} does not exist", "EntryNotFound")
    http.answer_json(200, [listing(name, entry) for name, entry in sorted(inside.items())])


@route("GET", "/{repo}/resolve/{revision}/{path:}")
def resolve(http: Handler, repo: str, revision: str, path: str) -> None:
    sha, commit = http.commit_of(http.readable(repo), revision)
    entry = commit.files.get(path)
    if entry is None:
        raise RefusalError(404, "Entry not found", "EntryNotFound")
    if entry.sha256 is None:
        http.answer(200, entry.content, **{"ETag": f'"{entry.oid}"', "X-Repo-Commit": sha})
        return
    linked = {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    address = f"{http.hub.storage_endpoint}/storage/{entry.sha256}?signature=secret"
    http.answer(302, **{"Location": address, "X-Repo-Commit": sha, **linked})


@route("GET", "/storage/{oid}")
def get_object(http: Handler, oid: str) -> None:
    content = http.hub.storage[oid]
    start = re.fullmatch(r"bytes=(\d+)-\d*", http.headers.get("Range") or "")
    if start is None:
        http.answer(200, content, ETag=f'"{oid}"')
        return
    first = int(start.group(1))
    http.answer(206, content[first:], **{"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"})


# --- running it ------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """An empty Hub, on a port of its own."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.storage_endpoint = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve_repository(repository: str, folder: Path) -> Iterator[str]:
    """A Hub with the files of `folder` as the public repository `repository`: yields its address."""
    with serve_hub() as hub:
        files = (path for path in folder.rglob("*") if path.is_file())
        hub.add(repository, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
        yield hub.endpoint
