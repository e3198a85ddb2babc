"""models.toml: what it says, and what is said of mistakes in it."""

import re
from pathlib import Path

import pytest

from phichat.errors import ConfigError
from phichat.models.registry import read_registry

PINNED = {"phi-4", "phi-4-mini", "phi-3-mini", "phi-3.5-mini", "phi-2"}
FAMILY = PINNED | {"phi-4-reasoning", "phi-4-reasoning-plus", "phi-4-mini-reasoning", "phi-3-medium", "phi-1.5"}


def mistake(tmp_path: Path, text: str) -> str:
    file = tmp_path / "models.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_registry(file)
    return str(caught.value)


def test_the_family_and_the_embedded_model_are_there() -> None:
    registry = read_registry()
    assert set(registry) == FAMILY | {"smollm2-135m"}
    for name in FAMILY:
        scope = registry[name].scope
        assert scope is not None
        assert scope.languages == ("python",)
        assert scope.modules == ("typing", "math", "random", "collections", "datetime", "itertools")
    assert all(spec.licence and spec.summary and spec.context_length for spec in registry.values())


def test_what_is_pinned_has_a_size_and_a_hash() -> None:
    pinned = {spec.name for spec in read_registry().values() if spec.revision}
    assert pinned == PINNED
    assert all(read_registry()[name].size and len(read_registry()[name].sha256) == 64 for name in pinned)


def test_the_shipped_file_passes_the_checks_of_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_bytes((Path(__file__).parents[2] / "models.toml").read_bytes())
    assert read_registry(file) == read_registry()


def test_no_name_or_alias_stands_for_two_models() -> None:
    names = [name.lower() for spec in read_registry().values() for name in {spec.name, *spec.aliases}]
    assert len(names) == len(set(names))


def test_names_and_aliases_in_any_case() -> None:
    assert read_registry()["phi-4-mini"].matches_name("PHI4-Mini")
    assert not read_registry()["phi-4-mini"].matches_name("phi-4")


def test_an_own_list_adds_and_overrides(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(
        '[mine]\nrepository = "me/mine"\nfile = "mine.gguf"\n'
        '[phi-4]\nsummary = "Mine to describe"\nsampling = { temp = 0.1 }\n'
        '[phi-2]\nrepository = "me/other"\n'
    )
    registry = read_registry(own)
    assert registry["mine"].repository == "me/mine"
    assert registry["phi-4"].summary == "Mine to describe"
    assert registry["phi-4"].sampling == {"temperature": 0.1}
    assert registry["phi-4"].sha256 == read_registry()["phi-4"].sha256


def test_another_file_has_none_of_the_facts_of_the_shipped_one(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text('[phi-2]\nrepository = "me/other"\n')
    changed = read_registry(own)["phi-2"]
    assert (changed.sha256, changed.size, changed.revision) == ("", 0, "")
    assert changed.licence == "MIT"


def test_no_own_list_is_fine(tmp_path: Path) -> None:
    assert read_registry(tmp_path / "none.toml") == read_registry()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bytes = 0", "bytes cannot be 0. It must be a whole number above 0"),
        ('sha256 = "abc"', "64 hexadecimal"),
        ('revision = "main"', "commit"),
        ("aliases = [1]", "list of texts"),
        ("sampling = { temperature = 2000 }", "temperature"),
        ("sampling = { ctx_size = 5 }", "sampling"),
        ('colour = "red"', "is not a model setting"),
        ("code = { words = [] }", "languages and modules"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    text = f'# mine\n\n["my.model"]\nrepository = "me/mine"\nfile = "mine.gguf"\n\n{line}\n\n[last]\nfile = "l.gguf"\n'
    message = mistake(tmp_path, text)
    assert f"{tmp_path / 'models.toml'}, line 7: [my.model]" in message
    assert said in message


def test_other_mistakes(tmp_path: Path) -> None:
    assert "line 3: [a] file" in mistake(tmp_path, '[a]\nrepository = "a/b"\nfile = "../x.gguf"\n')
    assert "line 2: [a] repository" in mistake(tmp_path, '[a]\nrepository = "https://x"\nfile = "x.gguf"\n')
    assert "line 2" in mistake(tmp_path, "[a]\nrepository = \n")
    assert "line 2: [a] has no file" in mistake(tmp_path, '\n[a]\nrepository = "a/b"\n')
    assert "line 1: x is not under a [NAME] table" in mistake(tmp_path, "x = 1\n")
    (tmp_path / "models.toml").write_bytes(b"[a]\n# \xff\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_registry(tmp_path / "models.toml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "folder"))):
        read_registry(tmp_path / "folder")
