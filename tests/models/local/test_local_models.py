"""Finding models where other programs keep them, and what each name leads to."""

from pathlib import Path

import pytest

from phichat.errors import ModelNotInstalled, UsageError
from phichat.models.local.links import Link, LinkStore
from phichat.models.local.local_models import LocalModels
from phichat.models.local.locations import ModelLocations, ModelSource
from phichat.paths import Paths
from support.model_folders import at, in_ollama, library, on_hub
from support.tiny_gguf import write_gguf, write_tiny_llama

PHI_4 = ("bartowski/phi-4-GGUF", "phi-4-Q4_K_M.gguf")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_llama(tmp_path_factory.mktemp("other") / "other.gguf", seed=1).read_bytes()


def names(found: LocalModels) -> dict[str, ModelSource]:
    return {model.name: model.source for model in found.models}


def test_an_empty_machine_has_no_model(tmp_path: Path) -> None:
    found = library(tmp_path)
    assert found.models == ()
    with pytest.raises(ModelNotInstalled, match="phichat pull phi-4-mini"):
        found.select_model(None)


def test_every_source_is_found_in_place(tmp_path: Path, tiny: bytes) -> None:
    on_hub(tmp_path / "hub", *PHI_4, tiny)
    on_hub(tmp_path / "hub", "me/mine-GGUF", "mine.Q8_0.gguf", tiny + b"1")
    at(tmp_path / "downloads" / "loaded.gguf", tiny + b"2")
    at(tmp_path / "studio" / "you" / "yours-GGUF" / "yours-IQ4_XS.gguf", tiny + b"3")
    in_ollama(tmp_path / "ollama", "qwen", "latest", tiny + b"4")
    in_ollama(tmp_path / "ollama", "them", "7b", tiny + b"5", registry="registry.ollama.ai/us")
    in_ollama(tmp_path / "ollama", "repo", "Q4_K_M", tiny + b"6", registry="hf.co/owner")
    LinkStore(tmp_path / "data" / "links.json").add_link(
        Link("home", at(tmp_path / "my.gguf", tiny + b"7"), ("ab" * 32,))
    )
    assert names(library(tmp_path)) == {
        "phi-4": ModelSource.HUB,
        "me/mine-GGUF:Q8_0": ModelSource.HUB,
        "loaded": ModelSource.DOWNLOAD,
        "home": ModelSource.LINK,
        "you/yours-GGUF:IQ4_XS": ModelSource.LM_STUDIO,
        "qwen:latest": ModelSource.OLLAMA,
        "us/them:7b": ModelSource.OLLAMA,
        "hf.co/owner/repo:Q4_K_M": ModelSource.OLLAMA,
    }


@pytest.mark.parametrize(
    "wanted",
    [
        "phi-4",
        "PHI4",
        "bartowski/phi-4-GGUF",
        "bartowski/phi-4-gguf:q4_k_m",
        "bartowski/phi-4-GGUF/phi-4-Q4_K_M.gguf",
        "hf.co/bartowski/phi-4-GGUF:Q4_K_M",
        "https://huggingface.co/bartowski/phi-4-GGUF/resolve/main/phi-4-Q4_K_M.gguf?download=true",
        "https://huggingface.co/bartowski/phi-4-GGUF/blob/main/phi-4-Q4_K_M.gguf",
        "phi-4-Q4_K_M.gguf",
        "phi-4-Q4_K_M",
    ],
)
def test_all_the_names_of_a_model(tmp_path: Path, tiny: bytes, wanted: str) -> None:
    link = on_hub(tmp_path / "hub", *PHI_4, tiny)
    found = library(tmp_path).resolve_model(wanted)
    assert found.path == link
    assert found.parts[0].sha256 == link.resolve().name
    assert found.spec is not None


def test_a_path_that_leads_into_a_source_is_the_model_there(tmp_path: Path, tiny: bytes) -> None:
    link = on_hub(tmp_path / "hub", *PHI_4, tiny)
    for path in (link, link.resolve()):
        assert library(tmp_path).resolve_model(str(path)).name == "phi-4"
    own = at(tmp_path / "own.gguf", tiny)
    assert library(tmp_path).resolve_model(str(own)).source is ModelSource.PATH


def test_ollamas_tag_goes_without_saying_when_it_is_the_latest(tmp_path: Path, tiny: bytes, other: bytes) -> None:
    blob = in_ollama(tmp_path / "ollama", "phi4", "latest", tiny)
    in_ollama(tmp_path / "ollama", "phi4", "mini", other)
    for wanted in ("phi4", "phi4:latest", "PHI4:latest"):
        assert library(tmp_path).resolve_model(wanted).path == blob
    assert library(tmp_path).resolve_model("phi4:mini").path != blob


def test_what_ollama_has_from_the_hub_goes_by_the_hubs_name_too(tmp_path: Path, tiny: bytes) -> None:
    blob = in_ollama(tmp_path / "ollama", "repo", "Q4_K_M", tiny, registry="hf.co/owner")
    for wanted in ("hf.co/owner/repo:Q4_K_M", "owner/repo:q4_k_m"):
        assert library(tmp_path).resolve_model(wanted).path == blob


def test_the_usual_quantization_is_meant_among_several(tmp_path: Path, tiny: bytes) -> None:
    usual = on_hub(tmp_path / "hub", "a/b", "x-Q4_K_M.gguf", tiny + b"1")
    for number, file in enumerate(["x-Q4_K_L.gguf", "x-UD-Q4_K_XL.gguf", "x-Q8_0.gguf", "mmproj-x-f16.gguf"]):
        on_hub(tmp_path / "hub", "a/b", file, tiny + b"2" * number)
    assert library(tmp_path).resolve_model("a/b").path == usual
    assert library(tmp_path).resolve_model("a/b:q8_0").path.name == "x-Q8_0.gguf"
    with pytest.raises(ModelNotInstalled, match=r"phichat pull a/b:Q5_K_M"):
        library(tmp_path).resolve_model("a/b:Q5_K_M")


def test_several_that_could_be_meant_are_named(tmp_path: Path, tiny: bytes, other: bytes) -> None:
    on_hub(tmp_path / "hub", "a/b", "one/x-Q4_K_M.gguf", tiny)
    on_hub(tmp_path / "hub", "a/b", "two/x-Q4_K_M.gguf", other)
    with pytest.raises(UsageError) as caught:
        library(tmp_path).resolve_model("a/b")
    assert "one/x-Q4_K_M.gguf" in str(caught.value)
    assert "two/x-Q4_K_M.gguf" in str(caught.value)


def test_the_same_file_in_two_sources_is_one_model(tmp_path: Path, tiny: bytes) -> None:
    link = on_hub(tmp_path / "hub", "a/b-GGUF", "b-Q4_K_M.gguf", tiny)
    in_ollama(tmp_path / "ollama", "b", "latest", tiny)
    at(tmp_path / "studio" / "a" / "b-GGUF" / "b-Q4_K_M.gguf", tiny)
    assert library(tmp_path).resolve_model("a/b-GGUF").path == link
    assert library(tmp_path).select_model(None).model.path == link


def test_an_older_revision_keeps_a_name_of_its_own(tmp_path: Path, tiny: bytes, other: bytes) -> None:
    on_hub(tmp_path / "hub", "a/b", "x.gguf", tiny, commit="1" * 40)
    newest = on_hub(tmp_path / "hub", "a/b", "x.gguf", other, commit="2" * 40)
    assert names(library(tmp_path)).keys() == {"a/b/x.gguf", "a/b@1111111/x.gguf"}
    assert library(tmp_path).resolve_model("a/b").path == newest


def test_the_same_file_in_two_revisions_is_one_model(tmp_path: Path, tiny: bytes) -> None:
    on_hub(tmp_path / "hub", "a/b", "x.gguf", tiny, commit="1" * 40)
    on_hub(tmp_path / "hub", "a/b", "x.gguf", tiny, commit="2" * 40)
    assert len(library(tmp_path).models) == 1


def test_a_split_model_is_one(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        on_hub(tmp_path / "hub", "a/b", f"x-Q4_K_M-{part:05d}-of-00003.gguf", b"part %d" % part)
    (model,) = library(tmp_path).models
    assert (model.name, model.size, len(model.parts)) == ("a/b:Q4_K_M", 18, 3)
    assert model.path.name == "x-Q4_K_M-00001-of-00003.gguf"
    assert library(tmp_path).resolve_model(str(model.parts[2].path)) == model


def test_unknown_names_get_similar_ones_if_there_are_any(tmp_path: Path, tiny: bytes) -> None:
    in_ollama(tmp_path / "ollama", "phipsi", "latest", tiny)
    with pytest.raises(ModelNotInstalled) as caught:
        library(tmp_path).resolve_model("phipsi:latst")
    assert caught.value.next_step.startswith("Try phipsi:latest")
    with pytest.raises(ModelNotInstalled) as caught:
        library(tmp_path).resolve_model("qwen05")
    assert caught.value.next_step == "Run `phichat list` to see the installed models"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("phi-4-mini", "phichat pull phi-4-mini"),
        ("Phi4-Mini", "phichat pull phi-4-mini"),
        ("someone/thing-GGUF", "phichat pull someone/thing-GGUF"),
        ("someone/thing-GGUF/x.gguf", "phichat pull someone/thing-GGUF/x.gguf"),
        ("https://hf.co/someone/thing", "phichat pull someone/thing"),
        ("/no/such.gguf", "No such file"),
        ("./such.gguf", "No such file"),
        ("such.gguf", "No such file"),
        ("models/such.gguf", "No such file"),
        ("a/b/c/d", "No such file"),
        ("~nobody-of-that-name/x.gguf", "No such file"),
        ("", "Unknown model ''"),
        ("\0", "Unknown model"),
    ],
)
def test_what_is_not_here_says_how_to_get_it(tmp_path: Path, wanted: str, said: str) -> None:
    with pytest.raises(ModelNotInstalled) as caught:
        library(tmp_path).resolve_model(wanted)
    assert said in str(caught.value)


def test_the_only_chat_model_is_chosen_whatever_else_is_there(tmp_path: Path, tiny: bytes) -> None:
    only = on_hub(tmp_path / "hub", "a/b", "x-Q4_K_M.gguf", tiny)
    embedder = write_gguf(tmp_path / "embedder.gguf", {}, {"token_embd.weight": (4, 4)}, architecture="bert")
    on_hub(tmp_path / "hub", "a/embed", "embed.gguf", embedder.read_bytes())
    on_hub(tmp_path / "hub", "a/broken", "broken.gguf", tiny[:-5000])
    choice = library(tmp_path).select_model(None)
    assert (choice.model.path, choice.notice) == (only, "")
    problems = {model.name: library(tmp_path).get_summary(model) for model in library(tmp_path).models}
    assert "embedding" in problems["a/embed/embed.gguf"].problem
    assert problems["a/broken/broken.gguf"].damaged


def test_the_one_chosen_last_comes_before_the_only_one(tmp_path: Path, tiny: bytes, other: bytes) -> None:
    on_hub(tmp_path / "hub", "a/b", "x.gguf", tiny)
    second = on_hub(tmp_path / "hub", "a/c", "y.gguf", other)
    with pytest.raises(ModelNotInstalled, match=r"a/b/x\.gguf, a/c/y\.gguf"):
        library(tmp_path).select_model(None)
    library(tmp_path).usage_log.note(second, is_explicit=True)
    library(tmp_path).usage_log.note(library(tmp_path).resolve_model("a/b").path, is_explicit=False)
    assert library(tmp_path).select_model(None).model.path == second
    second.unlink()
    assert library(tmp_path).select_model(None).model.name == "a/b/x.gguf"


def test_damage_in_what_others_keep_is_no_error(tmp_path: Path, tiny: bytes) -> None:
    link = on_hub(tmp_path / "hub", "a/b", "x.gguf", tiny)
    link.resolve().unlink()
    at(tmp_path / "ollama" / "manifests" / "r" / "l" / "m" / "t", b"{")
    at(tmp_path / "ollama" / "manifests" / "r" / "l" / "m" / "u", b'{"layers": [{"mediaType": 5}]}')
    at(tmp_path / "ollama" / "manifests" / "stray", b"[]")
    at(tmp_path / "hub" / "models--odd", b"a file")
    (tmp_path / "hub" / "models--empty").mkdir()
    at(tmp_path / "studio" / "file", b"")
    assert library(tmp_path).models == ()


def test_facts_follow_the_file(tmp_path: Path, tiny: bytes) -> None:
    path = at(tmp_path / "downloads" / "x.gguf", tiny)
    found = library(tmp_path)
    first = [found.get_summary(found.models[0]) for _ in range(2)]
    assert first[0] == first[1]
    assert (first[0].architecture, first[0].quantization, first[0].problem) == ("llama", "F32", "")
    path.write_bytes(tiny[:-3000])
    assert "cut off" in found.get_summary(found.models[0]).problem


def test_the_environment_says_where_the_others_keep_theirs(tmp_path: Path) -> None:
    home = {"PHICHAT_HOME": str(tmp_path / "p"), "HOME": str(tmp_path / "h"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    places = ModelLocations.from_environment(Paths.from_environment(home), home)
    assert places.hub == tmp_path / "hub"
    assert places.ollama[0] == tmp_path / "h" / ".ollama" / "models"
    assert tmp_path / "h" / ".lmstudio" / "models" in places.lm_studio
    assert ModelLocations.from_environment(Paths.from_environment(home), home | {"OLLAMA_MODELS": "/srv/o"}).ollama == (
        Path("/srv/o"),
    )
