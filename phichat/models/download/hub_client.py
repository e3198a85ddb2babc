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
from phichat.models.download.file_selection import HubFile
from phichat.models.download.remote_file import RemoteFile, offline_error

_TIMEOUT_S = 15.0
_MAX_ATTEMPTS = 4
_RETRYABLE_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_MAX_PARALLEL = 6
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RepositoryListing:
    """A repository at one commit. licence is "" when it states none; gated: its files ask for accepted terms."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str
    is_gated: bool


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One hit of a search. downloads: of the last month."""

    repository: str
    downloads: int
    likes: int


class HubClient:
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
        self._hf_hub, self._utils = huggingface_hub, cast(Any, utils)
        self._timeout_s = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self.endpoint = endpoint or str(constants.ENDPOINT)
        self._api = huggingface_hub.HfApi(endpoint=self.endpoint)

    @property
    def has_token(self) -> bool:
        """Whether the user is logged in, as far as this machine knows."""
        return bool(self._hf_hub.get_token())

    def fetch_listing(self, repository: str, revision: str = "") -> RepositoryListing:
        """What the repository holds at a branch, tag or commit. Raises HubError."""
        info: Any = self._call(
            repository,
            lambda: self._api.model_info(
                repository, revision=revision or None, files_metadata=True, timeout=_TIMEOUT_S
            ),
        )
        files = (_to_hub_file(sibling) for sibling in info.siblings or ())
        return RepositoryListing(repository, str(info.sha), tuple(files), _get_licence(info), bool(info.gated))

    def search_models(self, query: str, limit: int) -> Sequence[SearchHit]:
        """The repositories with GGUF files that the words fit, the most downloaded first. Raises HubError."""

        def send_query() -> Sequence[Mapping[str, Any]]:
            # The library's own call tries for most of a minute and takes no time limit.
            response = self._hf_hub.get_session().get(
                f"{self.endpoint}/api/models",
                params={"search": query, "filter": "gguf", "sort": "downloads", "limit": limit},
                headers=self._utils.build_hf_headers(),
                timeout=_TIMEOUT_S,
            )
            self._utils.hf_raise_for_status(response)
            return [hit for hit in response.json() if hit.get("id")]

        hits = self._call("the search", send_query)
        return [SearchHit(str(hit["id"]), int(hit.get("downloads") or 0), int(hit.get("likes") or 0)) for hit in hits]

    def fetch_listings(self, repositories: Sequence[str]) -> Mapping[str, RepositoryListing]:
        """What each repository holds, asked in parallel; those that cannot be read are left out."""

        def fetch_or_none(repository: str) -> RepositoryListing | None:
            try:
                return self.fetch_listing(repository)
            except HubError:
                return None

        with ThreadPoolExecutor(_MAX_PARALLEL, "listing") as pool:
            results = pool.map(fetch_or_none, repositories)
            return {name: answer for name, answer in zip(repositories, results, strict=True) if answer is not None}

    def open_file(self, listing: RepositoryListing, file: HubFile) -> RemoteFile:
        """The bytes of a file of that commit."""
        hub = self._hf_hub

        def make_access_error(status: int, headers: Mapping[str, str]) -> PhichatError:
            return self._access_error(
                listing.repository, is_gated=listing.is_gated or headers.get("X-Error-Code") == "GatedRepo"
            )

        return RemoteFile(
            hub.get_session(),
            hub.hf_hub_url(listing.repository, file.path, revision=listing.commit, endpoint=self.endpoint),
            file.path,
            file.size,
            self._utils.build_hf_headers(),
            make_access_error=make_access_error,
            timeout_s=self._timeout_s,
        )

    def open_url(self, url: str) -> RemoteFile:
        """The bytes behind any address; the size is 0 until it was asked for. No token goes there."""
        return RemoteFile(self._hf_hub.get_session(), url, urlsplit(url).path.rsplit("/", 1)[-1], 0)

    def check_connection(self) -> str:
        """How the hub answers, in a few words. Raises HubError."""
        started = time.monotonic()
        status = self._call("the hub", lambda: self._send_head(self.endpoint))
        return f"{self.endpoint} answers ({status}) after {time.monotonic() - started:.2f} s"

    def _send_head(self, url: str) -> int:
        return int(self._hf_hub.get_session().head(url, timeout=_TIMEOUT_S, follow_redirects=False).status_code)

    def _call(self, subject: str, call: Callable[[], _Result]) -> _Result:
        """call(), tried again where that may help. Raises HubError."""
        import httpx2
        from huggingface_hub import errors

        for attempt in range(_MAX_ATTEMPTS):
            wait = 0.5 * 2**attempt * random.uniform(0.7, 1.3)
            try:
                return call()
            except errors.GatedRepoError as error:
                raise self._access_error(subject, is_gated=True) from error
            except errors.RevisionNotFoundError as error:
                raise HubError(f"{subject} has no such revision", "Leave the revision out for the newest") from error
            except errors.RepositoryNotFoundError as error:
                raise self._not_found_error(subject) from error
            except errors.DisabledRepoError as error:
                raise HubError(f"{subject} was disabled on the hub", "Choose another repository") from error
            except errors.HFValidationError as error:
                raise HubError(f"{subject!r} is no name of a repository", "Write it as owner/name") from error
            except errors.OfflineModeIsEnabled as error:
                raise offline_error() from error
            except errors.HfHubHTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if status in (401, 403):
                    raise self._access_error(subject, is_gated=False) from error
                if status == 404:
                    raise self._not_found_error(subject) from error
                if status not in _RETRYABLE_STATUSES or attempt == _MAX_ATTEMPTS - 1:
                    raise HubError(f"The hub answered {status} when asked for {subject}", "Try again later") from error
                retry_after = error.response.headers.get("Retry-After", "")
                wait = max(wait, min(float(retry_after), 30.0) if retry_after.isdecimal() else 0.0)
            except httpx2.ConnectError as error:
                if attempt:
                    raise self._unreachable_error("no connection") from error
            except httpx2.TimeoutException as error:
                if attempt:
                    raise self._unreachable_error("no answer in time") from error
            except (httpx2.TransportError, ValueError) as error:
                # ValueError: a page of something between us and the hub, rather than JSON.
                if attempt == _MAX_ATTEMPTS - 1:
                    raise self._unreachable_error("no sensible answer") from error
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable_error(self, reason: str) -> HubUnreachable:
        return HubUnreachable(
            f"The hub at {self.endpoint} cannot be reached ({reason})",
            "Check the connection, HF_ENDPOINT and the proxy settings",
        )

    def _not_found_error(self, repository: str) -> HubError:
        login = "" if self.has_token else ", or log in with `hf auth login` where it is private"
        return HubError(
            f"The hub has no repository {repository}", f"Check the name, look for it with `phichat search WORDS`{login}"
        )

    def _access_error(self, repository: str, *, is_gated: bool) -> AccessDenied:
        page = f"{self.endpoint}/{repository}"
        if is_gated and not self.has_token:
            return AccessDenied(
                f"{repository} is gated: its files are given only to those who accepted its terms",
                f"Accept them on {page}, then log in with `hf auth login` or set HF_TOKEN",
            )
        if is_gated:
            return AccessDenied(
                f"{repository} is gated and the account you are logged in with has no access",
                f"Accept its terms on {page}, or wait until its owner has let you in",
            )
        return AccessDenied(
            f"The hub does not give {repository} to this user", "Log in with `hf auth login` or set HF_TOKEN"
        )


def _to_hub_file(sibling: Any) -> HubFile:
    sha256 = str(sibling.lfs.sha256).lower() if sibling.lfs is not None else ""
    git_oid = str(sibling.blob_id or "").lower()
    return HubFile(
        str(sibling.rfilename),
        int(sibling.size or 0),
        sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else "",
        git_oid if re.fullmatch(r"[0-9a-f]{40}", git_oid) else "",
    )


def _get_licence(info: Any) -> str:
    card_data = info.card_data
    licence = (
        getattr(card_data, "license_name", None) or getattr(card_data, "license", None)
        if card_data is not None
        else None
    )
    if isinstance(licence, str):
        return licence
    return next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), "")
