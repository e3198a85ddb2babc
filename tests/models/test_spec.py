"""What a SPEC means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.errors import UsageError
from phichat.models.spec import ModelReference, PathSpec, RegistryName, RepoSpec, UrlSpec, is_safe_path, parse_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("phi-4-mini", RegistryName("phi-4-mini")),
        ("phi-4-mini:Q8_0", RegistryName("phi-4-mini", "Q8_0")),
        (" phi-4 ", RegistryName("phi-4")),
        ("bartowski/phi-4-GGUF", RepoSpec("bartowski/phi-4-GGUF")),
        ("bartowski/phi-4-GGUF:Q5_K_M", RepoSpec("bartowski/phi-4-GGUF", "Q5_K_M")),
        ("bartowski/phi-4-GGUF:latest", RepoSpec("bartowski/phi-4-GGUF")),
        ("bartowski/phi-4-GGUF@main", RepoSpec("bartowski/phi-4-GGUF", revision="main")),
        ("bartowski/phi-4-GGUF@refs/pr/1", RepoSpec("bartowski/phi-4-GGUF", revision="refs/pr/1")),
        (f"a/b@{COMMIT}:Q4_0", RepoSpec("a/b", "Q4_0", revision=COMMIT)),
        ("a/b/c.gguf", RepoSpec("a/b", file="c.gguf")),
        ("a/b/Q4_K_M/c-00001-of-00002.gguf", RepoSpec("a/b", file="Q4_K_M/c-00001-of-00002.gguf")),
        ("a/b/c.gguf@v1", RepoSpec("a/b", file="c.gguf", revision="v1")),
        ("a/b@v1/c.gguf", RepoSpec("a/b", file="c.gguf", revision="v1")),
        ("hf.co/a/b:Q4_K_M", RepoSpec("a/b", "Q4_K_M")),
        ("hf://a/b/c.gguf", RepoSpec("a/b", file="c.gguf")),
        ("huggingface.co/a/b", RepoSpec("a/b")),
        ("https://huggingface.co/a/b/", RepoSpec("a/b")),
        ("https://www.huggingface.co/a/b/tree/main", RepoSpec("a/b")),
        ("https://huggingface.co/a/b/tree/main/Q4_K_M", RepoSpec("a/b", file="Q4_K_M/")),
        ("https://huggingface.co/a/b/blob/main/c.gguf", RepoSpec("a/b", file="c.gguf")),
        ("https://huggingface.co/a/b/resolve/main/c.gguf?download=true", RepoSpec("a/b", file="c.gguf")),
        (
            "https://huggingface.co/a/b/blob/refs%2Fpr%2F1/c%2B.gguf",
            RepoSpec("a/b", file="c+.gguf", revision="refs/pr/1"),
        ),
        ("https://huggingface.co/a/b?show_file_info=c-Q4_0.gguf", RepoSpec("a/b", file="c-Q4_0.gguf")),
        ("http://hub.example:8080/a/b/blob/main/c.gguf", RepoSpec("a/b", file="c.gguf")),
        ("https://example.com/x/model.gguf", UrlSpec("https://example.com/x/model.gguf")),
        ("model.gguf", PathSpec("model.gguf")),
        ("folder/model.gguf", PathSpec("folder/model.gguf")),
        ("./a/b", PathSpec("./a/b")),
        ("~/models/x.gguf", PathSpec("~/models/x.gguf")),
        ("/models/x.gguf", PathSpec("/models/x.gguf")),
        ("C:\\models\\x.gguf", PathSpec("C:\\models\\x.gguf")),
    ],
)
def test_what_people_write(text: str, meant: ModelReference) -> None:
    assert parse_reference(text, "http://hub.example:8080") == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a/b/../../c.gguf",
        "a/b/c.safetensors",
        "a/..",
        "a--b/c",
        "a/b:Q4 K",
        "ftp://example.com/x.gguf",
        "https:///x.gguf",
        "https:///a/b",
        "https://[x/y.gguf",
        "https://example.com:99999/x.gguf",
        "file://[",
        "https://huggingface.co/datasets/a/b",
        "https://huggingface.co/a",
        "a/b/c\x1b[31m.gguf",
    ],
)
def test_what_means_nothing_is_told(text: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_reference(text)
    assert told.value.next_step


@given(
    st.text(max_size=60)
    | st.text(alphabet="ab/:@.-~\\%?hfco", max_size=40)
    | st.text(max_size=20).map("https://".__add__)
)
def test_any_text_is_a_spec_or_a_usage_error(text: str) -> None:
    try:
        meant = parse_reference(text)
    except UsageError:
        return
    if isinstance(meant, RepoSpec):
        assert meant.repository.count("/") == 1
        assert not meant.file or is_safe_path(meant.file.removesuffix("/"))


@given(st.text(alphabet="ab./\\: \x00", max_size=20))
def test_a_safe_path_stays_in_its_folder(path: str) -> None:
    if is_safe_path(path):
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
        assert not set("\\:\x00") & set(path)
