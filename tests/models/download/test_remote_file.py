"""Responses of servers that no stand-in sends."""

import httpx2
import pytest

from phichat.errors import DownloadError
from phichat.models.download.remote_file import RemoteFile


@pytest.mark.parametrize("location", ["http://example.com:99999/a.gguf", "http://[/a.gguf"])
def test_a_redirect_to_a_malformed_url_is_reported(location: str) -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(302, headers={"Location": location}))
    with (
        httpx2.Client(transport=transport) as client,
        pytest.raises(DownloadError, match=r"a\.gguf is not a valid URL"),
    ):
        RemoteFile(client, "http://example.com/a.gguf", "a.gguf", 0).fetch_metadata()
