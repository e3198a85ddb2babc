"""Client of the Hugging Face hub: repositories and search.

Session, token, endpoint, proxies and offline mode are those of the library, as the user set them.
"""

import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx2

from phichat.errors import AccessDenied, HubError, HubUnreachable, PhichatError
from phichat.models.download.file_selection import HubFile
from phichat.models.download.remote_file import RETRYABLE_STATUSES, RemoteFile, offline_error, parse_retry_after

_TIMEOUT_S = 15.0
_MAX_ATTEMPTS = 4
_MAX_RETRY_WAIT_S = 30.0
_MAX_PARALLEL = 6
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RepositoryListing:
    """Repository at one commit. licence: "" if it states none. is_gated: the user must accept terms first."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str
    is_gated: bool


@dataclass(frozen=True, slots=True)
class SearchHit:
    """Hit of a search. downloads: in the last month."""

    repository: str
    downloads: int
    likes: int


class HubClient:
    """The hub. endpoint: its base URL, "" for that of HF_ENDPOINT. is_offline: make no connection."""

    def __init__(self, *, endpoint: str = "", is_offline: bool = False) -> None:
        # Read by the library at import. Its own transfer protocol does not resume after a kill.
        os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        if is_offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        import huggingface_hub
        from huggingface_hub import constants, utils

        # It logs signed URLs.
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        self._hf_hub, self._utils = huggingface_hub, cast(Any, utils)
        self._timeout_s = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self.endpoint = endpoint or str(constants.ENDPOINT)
        self._api: Any = huggingface_hub.HfApi(endpoint=self.endpoint)

    def fetch_listing(self, repository: str, revision: str = "") -> RepositoryListing:
        """Return the files of a repository at a branch, tag or commit. Raises HubError."""
        options = {"revision": revision or None, "files_metadata": True, "timeout": _TIMEOUT_S}
        info: Any = self._call(repository, partial(self._api.model_info, repository, **options))
        files = tuple(map(_to_hub_file, info.siblings or ()))
        return RepositoryListing(repository, str(info.sha), files, _get_licence(info), bool(info.gated))

    def search_models(self, query: str, limit: int) -> Sequence[SearchHit]:
        """Return repositories with GGUF files for a query, most downloaded first. Raises HubError."""

        def send_query() -> Sequence[Mapping[str, Any]]:
            # The library's own call retries for most of a minute and takes no timeout.
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
        """Return the listings of repositories, fetched in parallel, without those that cannot be read."""

        def fetch_or_none(repository: str) -> RepositoryListing | None:
            with suppress(HubError):
                return self.fetch_listing(repository)
            return None

        with ThreadPoolExecutor(_MAX_PARALLEL, "listing") as pool:
            results = pool.map(fetch_or_none, repositories)
            return {name: answer for name, answer in zip(repositories, results, strict=True) if answer is not None}

    def open_file(self, listing: RepositoryListing, file: HubFile) -> RemoteFile:
        """Return a file of that commit."""

        def make_access_error(headers: Mapping[str, str]) -> PhichatError:
            is_gated = listing.is_gated or headers.get("X-Error-Code") == "GatedRepo"
            return self._access_error(listing.repository, is_gated=is_gated)

        return RemoteFile(
            self._hf_hub.get_session(),
            self._hf_hub.hf_hub_url(listing.repository, file.path, revision=listing.commit, endpoint=self.endpoint),
            file.path,
            file.size,
            self._utils.build_hf_headers(),
            make_access_error=make_access_error,
            timeout_s=self._timeout_s,
        )

    def open_url(self, url: str) -> RemoteFile:
        """Return the file at any URL, whose size is 0 until fetch_metadata. No token is sent."""
        return RemoteFile(self._hf_hub.get_session(), url, urlsplit(url).path.rsplit("/", 1)[-1], 0)

    def check_connection(self) -> str:
        """Return a short text on how fast the hub answers. Raises HubError."""
        started = time.monotonic()
        send_head = partial(self._hf_hub.get_session().head, self.endpoint, timeout=_TIMEOUT_S, follow_redirects=False)
        head = self._call("the hub", send_head)
        return f"{self.endpoint} answers ({head.status_code}) after {time.monotonic() - started:.2f} s"

    def _call(self, subject: str, call: Callable[[], _Result]) -> _Result:
        """Return call(), called again after failures that may be temporary. Raises HubError."""
        from huggingface_hub import errors

        for attempt in range(_MAX_ATTEMPTS):
            wait, is_last = 0.5 * 2**attempt * random.uniform(0.7, 1.3), attempt == _MAX_ATTEMPTS - 1
            try:
                return call()
            except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled) as error:
                response: Any = getattr(error, "response", None)
                status = 0 if response is None else response.status_code
                if is_last or status not in RETRYABLE_STATUSES:
                    raise self._translate_error(error, status, subject) from error
                wait = max(wait, min(parse_retry_after(response.headers), _MAX_RETRY_WAIT_S))
            except (httpx2.ConnectError, httpx2.TimeoutException) as error:
                if attempt:
                    is_timeout = isinstance(error, httpx2.TimeoutException)
                    raise self._unreachable_error("no answer in time" if is_timeout else "no connection") from error
            except (httpx2.TransportError, ValueError) as error:
                # ValueError: the answer is not JSON but, for instance, a page of a proxy.
                if is_last:
                    raise self._unreachable_error("an invalid response") from error
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _translate_error(self, error: Exception, status: int, subject: str) -> HubError:
        from huggingface_hub import errors

        outcomes = {
            errors.GatedRepoError: self._access_error(subject, is_gated=True),
            errors.RevisionNotFoundError: HubError(f"{subject} has no such revision", "Omit it for the latest"),
            errors.DisabledRepoError: HubError(f"{subject} was disabled on the hub", "Choose another repository"),
            errors.HFValidationError: HubError(f"{subject!r} is not a repository name", "Write it as owner/name"),
            errors.OfflineModeIsEnabled: offline_error(),
        }
        if outcome := next((outcome for kind, outcome in outcomes.items() if isinstance(error, kind)), None):
            return outcome
        if isinstance(error, errors.RepositoryNotFoundError):
            status = 404
        if status in (401, 403):
            return self._access_error(subject, is_gated=False)
        if status == 404:
            login = "" if self._hf_hub.get_token() else ", or log in with `hf auth login` if it is private"
            search = "search for it with `phichat search WORDS`"
            return HubError(f"The hub has no repository {subject}", f"Check the name, {search}{login}")
        return HubError(f"The hub answered {status} when asked for {subject}", "Try again later")

    def _unreachable_error(self, reason: str) -> HubUnreachable:
        message = f"The hub at {self.endpoint} cannot be reached ({reason})"
        return HubUnreachable(message, "Check the connection, HF_ENDPOINT and the proxy settings")

    def _access_error(self, repository: str, *, is_gated: bool) -> AccessDenied:
        page = f"{self.endpoint}/{repository}"
        if not is_gated:
            next_step = "Log in with `hf auth login` or set HF_TOKEN"
            return AccessDenied(f"Hugging Face denied access to {repository}", next_step)
        if self._hf_hub.get_token():
            next_step = f"Accept its terms on {page}, or wait for the owner's approval"
            return AccessDenied(f"{repository} is gated and your account has no access", next_step)
        next_step = f"Accept them on {page}, then log in with `hf auth login` or set HF_TOKEN"
        return AccessDenied(f"{repository} is gated: its files require accepting its terms", next_step)


def _to_hub_file(sibling: Any) -> HubFile:
    sha256 = re.fullmatch(r"[0-9a-f]{64}", str(sibling.lfs.sha256 if sibling.lfs is not None else "").lower())
    git_oid = re.fullmatch(r"[0-9a-f]{40}", str(sibling.blob_id).lower())
    hashes = (match[0] if match else "" for match in (sha256, git_oid))
    return HubFile(str(sibling.rfilename), int(sibling.size or 0), *hashes)


def _get_licence(info: Any) -> str:
    licence = getattr(info.card_data, "license_name", None) or getattr(info.card_data, "license", None)
    if isinstance(licence, str):
        return licence
    return next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), "")
