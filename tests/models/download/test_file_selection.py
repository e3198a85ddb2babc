"""Which file of a repository is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.errors import AmbiguousModelError
from phichat.models.download.file_selection import FileSelection, HubFile, select_files


def chosen(names: list[str], **wanted: str) -> FileSelection:
    return select_files([HubFile(name, 10, f"{at:064x}") for at, name in enumerate(names)], "a/b", **wanted)


def path(names: list[str], **wanted: str) -> str:
    return chosen(names, **wanted).parts[0].path


@pytest.mark.parametrize(
    "name",
    [
        "phi-4-Q4_K_M.gguf",
        "phi-2.Q4_K_M.gguf",
        "phi-2.q4_k_m.gguf",
        "phi_Q4_K_M.gguf",
        "Q4_K_M.gguf",
        "Q4_K_M/phi.gguf",
        "phi.i1-Q4_K_M.gguf",
        "phi-UD-Q4_K_M.gguf",
    ],
)
def test_every_way_to_write_it_is_found_among_its_neighbours(name: str) -> None:
    neighbours = [
        f"phi-{label}.gguf"
        for label in ("Q4_K_L", "Q4_K_S", "Q4_K_XL", "UD-Q4_K_XL", "IQ4_XS", "Q4_0_4_4", "Q4_0", "Q8_0")
    ]
    found = chosen([*neighbours, name, "README.md", "mmproj-phi-Q4_K_M.gguf", "phi.imatrix.gguf"])
    assert (found.parts[0].path, found.needs_check) == (name, False)


def test_microsofts_name_is_taken_and_has_to_be_looked_into() -> None:
    found = chosen(["Phi-3-mini-4k-instruct-q4.gguf", "Phi-3-mini-4k-instruct-fp16.gguf"])
    assert (found.parts[0].path, found.needs_check) == ("Phi-3-mini-4k-instruct-q4.gguf", True)


def test_a_split_model_is_one_with_all_its_parts_in_order() -> None:
    parts = [f"Q8_0/phi-Q8_0-{part:05d}-of-00003.gguf" for part in (1, 2, 3)]
    found = chosen(["phi-Q4_K_M.gguf", parts[2], parts[0], parts[1]], quantization="q8_0")
    assert [part.path for part in found.parts] == parts
    assert found.size == 30
    assert path([*parts], file=parts[1]) == parts[0]


def test_a_split_model_that_lacks_a_part_is_refused() -> None:
    with pytest.raises(AmbiguousModelError, match="incomplete: 2 of 3 parts"):
        chosen(["phi-Q4_K_M-00001-of-00003.gguf", "phi-Q4_K_M-00003-of-00003.gguf"])


def test_several_models_are_asked_about() -> None:
    with pytest.raises(AmbiguousModelError, match="2 models") as told:
        chosen(["phi-4-Q4_K_M.gguf", "phi-4-mini-Q4_K_M.gguf", "x-Q8_0.gguf"])
    assert "a/b/phi-4-Q4_K_M.gguf" in told.value.next_step


def test_the_plain_one_goes_before_its_variants() -> None:
    assert path(["m.i1-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m.Q4_K_M.gguf"]) == "m.Q4_K_M.gguf"


def test_what_there_is_is_named() -> None:
    with pytest.raises(AmbiguousModelError, match="no Q4_K_M; available: Q5_K_M, Q8_0") as told:
        chosen(["m-Q5_K_M.gguf", "m-Q8_0.gguf"])
    assert "a/b:Q5_K_M" in told.value.next_step
    with pytest.raises(AmbiguousModelError, match=r"no file y\.gguf"):
        chosen(["m-Q5_K_M.gguf"], file="y.gguf")


def test_the_only_one_is_taken_unless_another_was_asked_for() -> None:
    assert path(["m.gguf", "mmproj-m.gguf", "m-lora.gguf"]) == "m.gguf"
    with pytest.raises(AmbiguousModelError):
        chosen(["m-Q8_0.gguf"], quantization="Q4_K_M")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.safetensors", "README.md"], "no GGUF"),
        (["mmproj-F16.gguf"], "no GGUF"),
        (["m-Q4_K_M.gguf.part1of2", "m-Q4_K_M.gguf.part2of2"], "split into raw pieces"),
        (["m-Q4_K_M.gguf-split-a", "m-Q4_K_M.gguf-split-b"], "split into raw pieces"),
        ([], "no GGUF"),
    ],
)
def test_a_repository_without_a_model(names: list[str], said: str) -> None:
    with pytest.raises(AmbiguousModelError, match=said):
        chosen(names)


def test_a_folder_narrows_it() -> None:
    assert path(["one/m-Q4_K_M.gguf", "two/m-Q4_K_M.gguf"], file="two/") == "two/m-Q4_K_M.gguf"


_NAMES = st.builds(
    "{}{}{}{}.gguf".format,
    st.sampled_from(["", "a/", "Q4_K_M/"]),
    st.sampled_from(["m", "phi-4", "mmproj-m", "x-lora"]),
    st.sampled_from(["", "-Q4_K_M", ".q4_k_m", "-Q4_K_S", "-q4", "-UD-Q4_K_XL", "-Q8_0"]),
    st.sampled_from(["", "-00001-of-00002", "-00002-of-00002"]),
)


@given(st.lists(_NAMES, unique=True, max_size=8), st.sampled_from(["", "Q4_K_M", "Q8_0", "q4"]))
def test_one_whole_model_or_a_sentence(names: list[str], quantization: str) -> None:
    try:
        found = chosen(names, quantization=quantization)
    except AmbiguousModelError as told:
        assert told.message
        assert told.next_step
        return
    parts = [part.path for part in found.parts]
    assert parts == sorted(parts)
    assert not any("mmproj" in part or "lora" in part for part in parts)
    assert len(parts) == 2 if "-of-00002" in parts[0] else len(parts) == 1
    if quantization == "Q8_0":
        assert all("-Q8_0" in part for part in parts)
