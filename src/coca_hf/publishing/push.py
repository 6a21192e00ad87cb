# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A publication becomes one commit of a Hub repository, or nothing of it is seen there."""

import itertools
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .check import check_loads
from .errors import PublishingError
from .plan import CARD, Publication, check_branch, is_stale, plan_publication


_logger = logging.getLogger(__name__)

MAIN = "main"
MESSAGE = "Publish model, processor, code and card"
_ATTEMPTS = 4
_LONGEST_WAIT_SECONDS = 300
_TRANSIENT = (408, 412, 429, 500, 502, 503, 504)
_AGAIN = " Run it again, and it goes on where it stopped."


@dataclass(frozen=True)
class Published:
    """
    Where a publication is: the repository, and the commit that holds all of it.

    `removed` are the files of an earlier model that this commit took away.
    """

    repo_id: str
    revision: str
    commit: str
    url: str
    removed: tuple[str, ...] = ()


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Published:
    """
    Publishes a saved folder: plans it, checks that it loads in a process of its own, and publishes it.

    Args:
        folder: What `save_pretrained` of model and processor wrote.
        repo_id: "owner/name". The repository is made if it is not there.
        private: Only the owner sees it. A repository that is there and public is refused.
        revision: Branch; made from the main one if it is not there.
        message: Title of the commit.
        token: By default the one of `hf auth login`, or of the environment variable HF_TOKEN.
        endpoint: Address of the Hub; by default the environment's.

    Raises:
        PublishingError: The folder is not fit to be published, or the Hub does not take it.
    """
    publication = plan_publication(folder, repo_id)
    check_branch(revision)
    check_login(repo_id, token)
    check_loads(publication)
    return publish(publication, private=private, revision=revision, message=message, token=token, endpoint=endpoint)


def check_login(repo_id: str, token: str | None = None) -> None:
    """Raises `PublishingError` where nothing can be published for want of a token or of a network."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        raise PublishingError(f"Cannot publish to '{repo_id}' while HF_HUB_OFFLINE is set.")
    token = token or get_token()
    if not token:
        raise PublishingError(f"Cannot publish to '{repo_id}' without a token: run `hf auth login`, or set HF_TOKEN.")
    if not re.fullmatch(r"[!-~]+", token):
        raise PublishingError(
            f"Cannot publish to '{repo_id}': the token holds characters that no token has. Run `hf auth login`, or "
            "set HF_TOKEN."
        )


def publish(
    publication: Publication,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Published:
    """
    Publishes what was planned, and checked by `check_loads`; see `push_folder`.

    All of it comes with one commit, which also removes parts of an earlier model that would be taken for parts of
    this one. Failures that may pass are waited for. Published again after a failure, what has arrived is not sent
    again, and what is there already makes no second commit.
    """
    from huggingface_hub import HfApi

    check_branch(revision)
    api = HfApi(endpoint=endpoint, token=token, library_name="coca_hf")
    branch = revision or MAIN

    def attempt() -> Published:
        _prepare(api, publication, private, branch)
        return _commit(api, publication, branch, message or MESSAGE)

    return _until_it_works(attempt, publication.repo_id)


def _prepare(api: Any, publication: Publication, private: bool, revision: str) -> None:
    """The repository and the branch are there, and only its owner sees it if so wanted."""
    repo_id, kind = publication.repo_id, publication.kind
    sdk = "gradio" if kind == "space" else None
    api.create_repo(repo_id, private=private or None, exist_ok=True, repo_type=kind, space_sdk=sdk)
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise PublishingError(
            f"The repository '{repo_id}' is there already, and public. Make it private in its settings, or give "
            "another name. Nothing was sent."
        )
    if revision != MAIN:
        api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=kind)


def _commit(api: Any, publication: Publication, revision: str, message: str) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo_id = publication.repo_id
    before = api.repo_info(repo_id, revision=revision, repo_type=publication.kind)
    additions = [CommitOperationAdd(name, str(path)) for name, path in publication.paths.items()]
    texts = {**publication.texts, CARD: publication.card}
    additions += [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
    stale = [file.rfilename for file in before.siblings or () if is_stale(file.rfilename, publication)]
    done = api.create_commit(
        repo_id,
        [*additions, *map(CommitOperationDelete, stale)],
        commit_message=message,
        revision=revision,
        repo_type=publication.kind,
        # What is stale was found in this commit. If there is a newer one, the Hub refuses, and we look again.
        parent_commit=before.sha,
    )
    return Published(repo_id, revision, done.oid, done.commit_url, tuple(stale))


def _until_it_works(attempt: Callable[[], Published], repo_id: str) -> Published:
    """Tries again while what fails may pass. An attempt begins anew, so one whose answer was lost changes nothing."""
    from huggingface_hub.errors import HTTPError

    for number in itertools.count(1):
        try:
            return attempt()
        except PublishingError:
            raise
        # RuntimeError is how the client wraps the failure of an upload; ValueError is a card that the Hub refuses.
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            seconds = _seconds_to_wait(error, number) if _may_pass(error) and number < _ATTEMPTS else None
            if seconds is None:
                again = _AGAIN if _may_pass(error) else ""
                raise PublishingError(f"Cannot publish to '{repo_id}': {_cause(error)}.{again}") from error
            _logger.warning("%s: %s; trying again in %s s", repo_id, _cause(error), seconds)
            time.sleep(seconds)
    raise AssertionError("counting does not end")


def _may_pass(error: BaseException) -> bool:
    status = _status(error)
    return isinstance(error, RuntimeError) or (_is_network(error) if status is None else status in _TRANSIENT)


def _seconds_to_wait(error: BaseException, number: int) -> int | None:
    """Until the next attempt; None where the client has made several itself, or the Hub asks for too long a time."""
    if isinstance(error, RuntimeError):
        return None
    asked = _asked_to_wait(error)
    seconds = 2 ** (number - 1) if asked is None else asked
    return seconds if seconds <= _LONGEST_WAIT_SECONDS else None


def _asked_to_wait(error: BaseException) -> int | None:
    """Seconds, where the Hub's answer names them: as an end of its rate limit's window, or as Retry-After."""
    from huggingface_hub.utils import parse_ratelimit_headers

    response = getattr(error, "response", None)
    if response is None:
        return None
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    asked = response.headers.get("Retry-After", "")
    return int(asked) if asked.isdecimal() else None


def _status(error: BaseException) -> int | None:
    """Of the Hub's answer, if that is what the error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_network(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError

    return isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def _cause(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return f"{_one_line(error)}, because {_answer(error.__cause__)}"
    hint = _HINTS.get(_status(error) or 0, "{answer}")
    asked = _asked_to_wait(error)
    return hint.format(answer=_answer(error), time="" if asked is None else f" {asked} s")


def _answer(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if response is None:
        return f"the connection failed: {_one_line(error)}" if _is_network(error) else _one_line(error)
    said = getattr(error, "server_message", None)
    answer = f"the answer was {response.status_code} {response.reason_phrase}"
    return f"{answer}: {without_secrets(said)}" if said else answer


def _one_line(error: BaseException) -> str:
    return without_secrets(str(error)) or type(error).__name__


def without_secrets(text: str) -> str:
    """In one line, without addresses, since those of uploads hold signatures, and without tokens."""
    text = re.sub(r"https?://[^\s'\"]+", "(address)", " ".join(text.split()))
    return re.sub(r"\bBearer [^'\"]+|\bhf_\w+", "(token)", text).rstrip(".")


_HINTS = {
    401: "the Hub does not accept the token, {answer}. Run `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there, {answer}. Give it write access, or a namespace of your own",
    429: "the Hub asks to wait{time}, {answer}",
}
