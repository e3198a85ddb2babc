"""The hub: what a repository holds, what a search finds; the only user of huggingface_hub.

Its session, token, endpoint, proxies and offline mode are the library's own, as the user has set them.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from phichat.errors import AccessDenied, HubError, HubUnreachable, PhichatError
from phichat.models.choose import HubFile
from phichat.models.source import Source, offline

_TIMEOUT_S = 15.0
_ATTEMPTS = 4
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_PARALLEL = 6
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit. licence is "" when it states none; gated: its files ask for accepted terms."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str
    gated: bool


@dataclass(frozen=True, slots=True)
class Found:
    """One hit of a search. downloads: of the last month."""

    repository: str
    downloads: int
    likes: int


class Hub:
    """One user's view of the hub. Importing the library waits for the first call.

    endpoint: its base URL, else what HF_ENDPOINT says. is_offline: makes no connection, whatever the environment says.
    """

    def __init__(self, *, endpoint: str = "", is_offline: bool = False) -> None:
        # Read by the library when it is imported. Its own transfer protocol fetches again after a kill.
        os.environ["HF_HUB_DISABLE_XET"] = "1"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        if is_offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        import huggingface_hub
        from huggingface_hub import constants, utils

        # It logs signed addresses.
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        self._library, self._utils = huggingface_hub, cast(Any, utils)
        self._timeout_s = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self.endpoint = endpoint or str(constants.ENDPOINT)
        self._api = huggingface_hub.HfApi(endpoint=self.endpoint)

    @property
    def has_token(self) -> bool:
        """Whether the user is logged in, as far as this machine knows."""
        return bool(self._library.get_token())

    def listing(self, repository: str, revision: str = "") -> Listing:
        """What the repository holds at a branch, tag or commit. Raises HubError."""
        info: Any = self._ask(
            repository,
            lambda: self._api.model_info(
                repository, revision=revision or None, files_metadata=True, timeout=_TIMEOUT_S
            ),
        )
        files = (_file(sibling) for sibling in info.siblings or ())
        return Listing(repository, str(info.sha), tuple(files), _licence(info), bool(info.gated))

    def search(self, words: str, limit: int) -> Sequence[Found]:
        """The repositories with GGUF files that the words fit, the most downloaded first. Raises HubError."""

        def ask() -> Sequence[Mapping[str, Any]]:
            # The library's own call tries for most of a minute and takes no time limit.
            response = self._library.get_session().get(
                f"{self.endpoint}/api/models",
                params={"search": words, "filter": "gguf", "sort": "downloads", "limit": limit},
                headers=self._utils.build_hf_headers(),
                timeout=_TIMEOUT_S,
            )
            self._utils.hf_raise_for_status(response)
            return [hit for hit in response.json() if hit.get("id")]

        hits = self._ask("the search", ask)
        return [Found(str(hit["id"]), int(hit.get("downloads") or 0), int(hit.get("likes") or 0)) for hit in hits]

    def listings(self, repositories: Sequence[str]) -> Mapping[str, Listing]:
        """What each repository holds, asked in parallel; those that cannot be read are left out."""

        def ask(repository: str) -> Listing | None:
            try:
                return self.listing(repository)
            except HubError:
                return None

        with ThreadPoolExecutor(_PARALLEL, "listing") as pool:
            answers = pool.map(ask, repositories)
            return {name: answer for name, answer in zip(repositories, answers, strict=True) if answer is not None}

    def source(self, listing: Listing, file: HubFile) -> Source:
        """The bytes of a file of that commit."""
        hub = self._library

        def denied(status: int, headers: Mapping[str, str]) -> PhichatError:
            return self._denied(
                listing.repository, is_gated=listing.gated or headers.get("X-Error-Code") == "GatedRepo"
            )

        return Source(
            hub.get_session(),
            hub.hf_hub_url(listing.repository, file.path, revision=listing.commit, endpoint=self.endpoint),
            file.path,
            file.size,
            self._utils.build_hf_headers(),
            denied=denied,
            timeout_s=self._timeout_s,
        )

    def plain_source(self, url: str) -> Source:
        """The bytes behind any address; the size is 0 until it was asked for. No token goes there."""
        return Source(self._library.get_session(), url, urlsplit(url).path.rsplit("/", 1)[-1], 0)

    def reachable(self) -> str:
        """How the hub answers, in a few words. Raises HubError."""
        began = time.monotonic()
        status = self._ask("the hub", lambda: self._head(self.endpoint))
        return f"{self.endpoint} answers ({status}) after {time.monotonic() - began:.2f} s"

    def _head(self, url: str) -> int:
        return int(self._library.get_session().head(url, timeout=_TIMEOUT_S, follow_redirects=False).status_code)

    def _ask(self, what: str, call: Callable[[], _Answer]) -> _Answer:
        """call(), tried again where that may help. Raises HubError."""
        import httpx2
        from huggingface_hub import errors

        for attempt in range(_ATTEMPTS):
            wait = 0.5 * 2**attempt * random.uniform(0.7, 1.3)
            try:
                return call()
            except errors.GatedRepoError as why:
                raise self._denied(what, is_gated=True) from why
            except errors.RevisionNotFoundError as why:
                raise HubError(f"{what} has no such revision", "leave the revision out for the newest") from why
            except errors.RepositoryNotFoundError as why:
                raise self._missing(what) from why
            except errors.DisabledRepoError as why:
                raise HubError(f"{what} was disabled on the hub", "choose another repository") from why
            except errors.HFValidationError as why:
                raise HubError(f"{what!r} is no name of a repository", "write it as owner/name") from why
            except errors.OfflineModeIsEnabled as why:
                raise offline() from why
            except errors.HfHubHTTPError as why:
                status = why.response.status_code if why.response is not None else 0
                if status in (401, 403):
                    raise self._denied(what, is_gated=False) from why
                if status == 404:
                    raise self._missing(what) from why
                if status not in _PASSING or attempt == _ATTEMPTS - 1:
                    raise HubError(f"The hub answered {status} when asked for {what}", "try again later") from why
                after = why.response.headers.get("Retry-After", "")
                wait = max(wait, min(float(after), 30.0) if after.isdecimal() else 0.0)
            except httpx2.ConnectError as why:
                if attempt:
                    raise self._unreachable("no connection") from why
            except httpx2.TimeoutException as why:
                if attempt:
                    raise self._unreachable("no answer in time") from why
            except (httpx2.TransportError, ValueError) as why:
                # ValueError: a page of something between us and the hub, rather than JSON.
                if attempt == _ATTEMPTS - 1:
                    raise self._unreachable("no sensible answer") from why
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, why: str) -> HubUnreachable:
        return HubUnreachable(
            f"The hub at {self.endpoint} cannot be reached ({why})",
            "check the connection, HF_ENDPOINT and the proxy settings",
        )

    def _missing(self, repository: str) -> HubError:
        login = "" if self.has_token else ", or log in with `hf auth login` where it is private"
        return HubError(
            f"The hub has no repository {repository}", f"check the name, look for it with `phichat search WORDS`{login}"
        )

    def _denied(self, repository: str, *, is_gated: bool) -> AccessDenied:
        page = f"{self.endpoint}/{repository}"
        if is_gated and not self.has_token:
            return AccessDenied(
                f"{repository} is gated: its files are given only to those who accepted its terms",
                f"accept them on {page}, then log in with `hf auth login` or set HF_TOKEN",
            )
        if is_gated:
            return AccessDenied(
                f"{repository} is gated and the account you are logged in with has no access",
                f"accept its terms on {page}, or wait until its owner has let you in",
            )
        return AccessDenied(
            f"The hub does not give {repository} to this user", "log in with `hf auth login` or set HF_TOKEN"
        )


def _file(sibling: Any) -> HubFile:
    sha256 = str(sibling.lfs.sha256).lower() if sibling.lfs is not None else ""
    git_oid = str(sibling.blob_id or "").lower()
    return HubFile(
        str(sibling.rfilename),
        int(sibling.size or 0),
        sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else "",
        git_oid if re.fullmatch(r"[0-9a-f]{40}", git_oid) else "",
    )


def _licence(info: Any) -> str:
    card = info.card_data
    stated = getattr(card, "license_name", None) or getattr(card, "license", None) if card is not None else None
    if isinstance(stated, str):
        return stated
    return next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), "")
