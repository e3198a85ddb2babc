"""What config.toml may say of a server, and what `-m` means then."""

from pathlib import Path

import pytest

from phichat.config import load
from phichat.endpoints import Endpoint, served
from phichat.errors import ConfigError


def read(folder: Path, text: str) -> dict[str, Endpoint]:
    file = folder / "config.toml"
    file.write_text(text)
    return dict(load({}, file, {}).endpoints)


def test_everything_that_can_be_set(tmp_path: Path) -> None:
    text = (
        '[endpoints.lab]\nbase_url = "http://lab:8000/v1/"\napi_key_env = "LAB_KEY"\nmodel = "microsoft/phi-4"\n'
        'api_version = "2025-01-01"\ntimeout = 30\n[endpoints.lab.headers]\nX-Team = "blue"\n'
    )
    found = read(tmp_path, text)["lab"]
    assert found == Endpoint(
        "lab", "http://lab:8000/v1", "LAB_KEY", "microsoft/phi-4", {"X-Team": "blue"}, "2025-01-01", 30.0
    )
    assert "blue" not in repr(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "x"', "endpoints.lab has no base_url"),
        ('base_url = "lab:8000"', "endpoints.lab.base_url cannot be this"),
        ('base_url = "ftp://lab"', "endpoints.lab.base_url cannot be this"),
        ('base_url = "http://me:sk-secret@lab/v1"', "without a user"),
        ('base_url = "http://lab/v1?key=sk-secret"', "without a user"),
        ('base_url = "http://lab"\napi_key = "sk-secret"', "api_key_env"),
        ('base_url = "http://lab"\napi_key_env = "sk-secret"', "not the key itself"),
        ('base_url = "http://lab"\nheaders = {Authorization = "Bearer sk-secret"}', "api_key_env"),
        ('base_url = "http://lab"\nheaders = {X = "sk-secret\\n"}', "endpoints.lab.headers cannot be this"),
        ('base_url = "http://lab"\ntimeout = "soon"', "endpoints.lab.timeout cannot be 'soon'"),
        ('base_url = "http://lab"\ntimeout = 0', "from 1 to"),
        ('base_url = "http://lab"\nmodels = "x"', "endpoints.lab.models is no setting"),
        ('base_url = "http://[::1"', "endpoints.lab.base_url cannot be this"),
        ('base_url = "http://lab:99999"', "endpoints.lab.base_url cannot be this"),
    ],
)
def test_what_cannot_be_used_is_named_and_no_key_is_repeated(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, f"[endpoints.lab]\n{text}\n")
    assert words in str(raised.value)
    assert "config.toml: endpoints.lab" in str(raised.value)
    assert "sk-secret" not in f"{raised.value!r}{raised.value}"


@pytest.mark.parametrize("text", ["endpoints = 3", "endpoints.lab = 3", '[endpoints."a/b"]\nbase_url = "http://lab"'])
def test_a_section_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="endpoints"):
        read(tmp_path, text)


def test_which_names_mean_an_endpoint() -> None:
    lab = Endpoint("lab", "http://lab/v1", model="phi-4")

    def meant(model: str | None) -> str | None:
        found = served(model, {"lab": lab})
        return found and found.name

    assert meant("lab") == "lab/phi-4"
    assert meant("lab/microsoft/phi-4") == "lab/microsoft/phi-4"
    assert meant("lab/") == "lab/phi-4"
    assert [meant(name) for name in ("./lab", "phi-4", "labs/x", "/lab/x", "", None)] == [None] * 6
