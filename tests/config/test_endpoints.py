"""What config.toml may say of a server, and what `-m` means then."""

import shlex
import sys
from pathlib import Path

import pytest

from phichat.config.endpoints import Endpoint, parse_endpoint_model, resolve_api_key
from phichat.config.settings import load_config
from phichat.errors import ConfigError


def read(folder: Path, text: str) -> dict[str, Endpoint]:
    file = folder / "config.toml"
    file.write_text(text)
    return dict(load_config({}, file, {}).endpoints)


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
        ('base_url = "lab:8000"', "endpoints.lab.base_url has an invalid value"),
        ('base_url = "ftp://lab"', "endpoints.lab.base_url has an invalid value"),
        ('base_url = "http://me:sk-secret@lab/v1"', "without a user"),
        ('base_url = "http://lab/v1?key=sk-secret"', "without a user"),
        ('base_url = "http://lab"\napi_key = "sk-secret"', "api_key_env"),
        ('base_url = "http://lab"\napi_key_env = "sk-secret"', "not the key itself"),
        ('base_url = "http://lab"\nheaders = {Authorization = "Bearer sk-secret"}', "api_key_env"),
        ('base_url = "http://lab"\nheaders = {X = "sk-secret\\n"}', "endpoints.lab.headers has an invalid value"),
        ('base_url = "http://lab"\ntimeout = "soon"', "endpoints.lab.timeout cannot be 'soon'"),
        ('base_url = "http://lab"\ntimeout = 0', "from 1 to"),
        ('base_url = "http://lab"\nmodels = "x"', "endpoints.lab.models is not a setting"),
        ('base_url = "http://[::1"', "endpoints.lab.base_url has an invalid value"),
        ('base_url = "http://lab:99999"', "endpoints.lab.base_url has an invalid value"),
        ('base_url = "http://lab"\napi_key_command = "echo \'sk-secret"', "with quotes closed"),
        ('base_url = "http://lab"\napi_key_command = ["echo", "sk-secret"]', "api_key_command has an invalid value"),
        ('base_url = "http://lab"\napi_key_env = "K"\napi_key_command = "echo sk-secret"', "Use only one of them"),
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
        found = parse_endpoint_model(model, {"lab": lab})
        return found and found.name

    assert meant("lab") == "lab/phi-4"
    assert meant("lab/microsoft/phi-4") == "lab/microsoft/phi-4"
    assert meant("lab/") == "lab/phi-4"
    assert [meant(name) for name in ("./lab", "phi-4", "labs/x", "/lab/x", "", None)] == [None] * 6


def test_the_key_of_a_variable() -> None:
    lab = Endpoint("lab", "http://lab/v1", "LAB_KEY")
    assert resolve_api_key(lab, {"LAB_KEY": " sk-secret\n"}) == "sk-secret"
    assert resolve_api_key(lab, {}) == resolve_api_key(Endpoint("lab", "http://lab/v1"), {"LAB_KEY": "sk-secret"}) == ""
    for odd in ("sk-\nsecret", "sk-sécret", "sk-\x00secret"):
        with pytest.raises(ConfigError, match="The variable LAB_KEY does not give a usable API key") as raised:
            resolve_api_key(lab, {"LAB_KEY": odd})
        assert "secret" not in str(raised.value)


def python(program: str) -> str:
    return shlex.join([sys.executable, "-c", program])


def by_command(folder: Path, command: str) -> Endpoint:
    return read(folder, f'[endpoints.lab]\nbase_url = "http://lab"\napi_key_command = {_toml(command)}\n')["lab"]


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_the_key_of_a_command(tmp_path: Path) -> None:
    program = "import sys; print('sk-secret', sys.stdin.read()); print('user: me'); print('hm', file=sys.stderr)"
    lab = by_command(tmp_path, python(program))
    assert resolve_api_key(lab, {}) == "sk-secret"
    assert "secret" not in repr(lab)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (python("print('sk-secret'); exit(3)"), "failed with status 3. Run it by hand"),
        (python("pass"), "printed no key"),
        (python("print('sk-\\x07secret')"), "does not give a usable API key"),
        ("no-such-command sk-secret", "cannot be run ("),
        (f"{shlex.quote(sys.executable)} -c 'print()' && echo sk-secret", "printed no key"),
    ],
)
def test_a_command_that_gives_no_key_is_told_and_nothing_of_it(
    tmp_path: Path, command: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_api_key(by_command(tmp_path, command), {})
    assert words in str(raised.value)
    assert "[endpoints.lab]" in str(raised.value)
    assert "secret" not in f"{raised.value!r}{raised.value}{raised.value.__cause__}{''.join(capfd.readouterr())}"
