"""`list`, `show`, `rm`, `verify`, `link` and `fit` as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.demo_model import embedded_model, no_other_models
from support.fake_hub import Repository, stand_in
from support.model_folders import at, in_ollama, on_hub
from support.tiny_gguf import write_tiny_llama

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PHICHAT_", "HF_"))}
    return kept | no_other_models(tmp_path) | {"PHICHAT_HOME": str(tmp_path / "home"), "PHICHAT_KEEP_ALIVE": "0"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def start(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *arguments]
        env = environment | more
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, encoding="utf-8")

    return start


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache with one chat model, alice/tiny-GGUF. Its link."""
    content = write_tiny_llama(tmp_path / "made.gguf").read_bytes()
    return on_hub(tmp_path / "hub", "alice/tiny-GGUF", "tiny-F32.gguf", content)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if "was built for CPU only" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("phichat: ")
    assert ". " in lines[0]
    return lines[0]


def listed(run: Run, verb: str = "list") -> dict[str, dict[str, object]]:
    return {model["name"]: model for model in json.loads(run(verb, "--json").stdout)}


def test_list_has_every_field(run: Run, hub: Path, tmp_path: Path) -> None:
    in_ollama(tmp_path / "ollama", "x", "latest", b"no model")
    models = listed(run)
    model = models["alice/tiny-GGUF:F32"]
    assert model["path"] == str(hub)
    assert model["size"] == hub.stat().st_size
    assert (model["quantization"], model["architecture"], model["source"]) == ("F32", "llama", "hub")
    assert model["sha256"] == hub.resolve().name
    assert (model["verified_at"], model["last_used_at"], model["problem"]) == (None, None, None)
    assert "begins with" in str(models["x:latest"]["problem"])
    assert listed(run, "ls") == models


def test_list_for_people_and_of_nothing(run: Run, hub: Path, tmp_path: Path) -> None:
    assert "alice/tiny-GGUF:F32" in run("list").stdout
    hostile = at(tmp_path / "home" / "data" / "models" / "a\x1b[31m.gguf", b"")
    assert hostile.exists()
    assert "\x1b" not in run("list").stdout


def test_a_model_that_was_used_is_the_one_used_next(run: Run, hub: Path, tmp_path: Path) -> None:
    on_hub(tmp_path / "hub", "bob/tiny-GGUF", "tiny-F32.gguf", hub.read_bytes() + b"\0")
    asked = ("ask", "--json", "--max-tokens", "1", "hi")
    assert json.loads(run(*asked, "-m", "bob/tiny-GGUF").stdout)["model"] == "bob/tiny-GGUF:F32"
    again = run(*asked)
    assert json.loads(again.stdout)["model"] == "bob/tiny-GGUF:F32"
    assert "embedded" not in again.stderr
    model = listed(run)["bob/tiny-GGUF:F32"]
    assert model["last_used_at"]
    assert model["verified_at"]


def test_the_only_model_answers_without_a_remark(run: Run, hub: Path) -> None:
    done = run("ask", "--json", "--max-tokens", "1", "hi")
    assert json.loads(done.stdout)["model"] == "alice/tiny-GGUF:F32"
    assert "phichat pull" not in done.stderr


def test_the_embedded_model_says_so_each_time_it_comes_of_itself(run: Run) -> None:
    embedded_model()
    for _ in range(2):
        assert "phichat pull phi-4-mini" in run("ask", "--max-tokens", "1", "hi").stderr
    for _ in range(2):
        assert "phichat pull" not in run("ask", "--max-tokens", "1", "hi", "-m", "smollm2").stderr


def test_a_models_own_sampling_options_yield_to_the_users(run: Run, hub: Path, tmp_path: Path) -> None:
    at(
        tmp_path / "home" / "config" / "models.toml",
        b'[mine]\nrepository = "alice/tiny-GGUF"\nfile = "tiny-F32.gguf"\nsampling = { max_tokens = 3, seed = 7 }\n',
    )
    own = json.loads(run("ask", "--json", "-m", "mine", "hi").stdout)
    assert (own["usage"]["completion_tokens"], own["seed"]) == (3, 7)
    asked = json.loads(run("ask", "--json", "-m", "mine", "--max-tokens", "5", "hi").stdout)
    assert (asked["usage"]["completion_tokens"], asked["seed"]) == (5, 7)


def test_a_mistake_in_ones_own_list_is_told_with_its_line(run: Run, tmp_path: Path) -> None:
    at(tmp_path / "home" / "config" / "models.toml", b"[mine]\ncolour = 1\n")
    for verb in (["list"], ["ask", "hi"], ["fit", "mine"]):
        done = run(*verb)
        assert done.returncode == 2
        assert "models.toml, line 2: [mine] colour" in one_sentence(done)


def test_show(run: Run, hub: Path) -> None:
    document = json.loads(run("show", "alice/tiny-GGUF", "--json").stdout)
    assert document["layers"] == 2
    assert (document["fits"], document["problem"]) == (True, None)
    assert document["context_length"] == 2048
    assert "im_start" in document["chat_template"]
    assert "2,048 tokens" in run("show", "alice/tiny-GGUF").stdout
    assert run("show", "phi-4").returncode == 3


def test_damage_is_found_by_verify_and_by_the_next_ask(run: Run, hub: Path) -> None:
    assert run("ask", "--max-tokens", "1", "hi").returncode == 0
    assert json.loads(run("verify", "--json", "alice/tiny-GGUF").stdout)[0]["ok"] is True
    with hub.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"?")
    done = run("ask", "--max-tokens", "1", "hi", "-m", "alice/tiny-GGUF")
    assert (done.returncode, done.stdout) == (1, "")
    assert "damaged" in one_sentence(done)
    done = run("verify", "--json", "alice/tiny-GGUF")
    assert done.returncode == 1
    (result,) = json.loads(done.stdout)
    assert result["ok"] is False
    assert hub.resolve().name in result["reason"]


def test_a_file_that_was_cut_off_names_the_repair(run: Run, hub: Path) -> None:
    os.truncate(hub, hub.stat().st_size - 5000)
    done = run("ask", "--max-tokens", "1", "hi", "-m", "alice/tiny-GGUF")
    assert done.returncode == 1
    assert "phichat verify 'alice/tiny-GGUF:F32' --repair" in one_sentence(done)


def test_link_use_and_forget(run: Run, tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path / "some where.gguf")
    assert run("link", str(file), "--name", "mine").returncode == 0
    model = listed(run)["mine"]
    assert (model["path"], model["source"]) == (str(file), "link")
    assert model["verified_at"]
    assert json.loads(run("ask", "--json", "--max-tokens", "1", "hi").stdout)["model"] == "mine"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run("verify", "mine").returncode == 1
    assert run("link", str(file), "--name", "mine").returncode == 0
    assert run("verify", "mine").returncode == 0
    assert run("rm", "mine", "-y").returncode == 0
    assert file.exists()
    assert "mine" not in listed(run)


@pytest.mark.parametrize("name", ["phi-4", "alice/tiny-GGUF:F32", "a/b", "\x1b[31m"])
def test_names_that_a_link_cannot_have(run: Run, hub: Path, tmp_path: Path, name: str) -> None:
    done = run("link", str(hub), "--name", name)
    assert done.returncode == 2
    assert "\x1b" not in one_sentence(done)


def test_rm_asks_nobody_without_a_terminal(run: Run, hub: Path) -> None:
    done = run("rm", "alice/tiny-GGUF")
    assert done.returncode == 2
    assert "-y" in one_sentence(done)
    size = hub.stat().st_size
    assert f"{size:,} bytes" in run("rm", "alice/tiny-GGUF", "-y").stderr
    assert not hub.is_symlink()


def test_rm_leaves_what_others_keep(run: Run, tmp_path: Path) -> None:
    in_ollama(tmp_path / "ollama", "x", "latest", b"no model")
    done = run("rm", "x", "-y")
    assert done.returncode == 1
    assert "ollama rm x:latest" in one_sentence(done)


def test_fit_has_every_field(run: Run, hub: Path) -> None:
    document = json.loads(run("fit", "alice/tiny-GGUF", "--ctx-size", "512", "--json").stdout)
    assert (document["model"], document["fits"], document["n_ctx"]) == ("alice/tiny-GGUF:F32", True, 512)
    assert document["max_ctx"] == 2048
    memory = document["memory"]
    assert memory["total"] == memory["weights"] + memory["kv_cache"] + memory["compute"]
    assert document["available"]["ram"] > 0
    assert isinstance(document["available"]["vram"], list)
    assert document["tokens_per_second_from"]
    assert "fits" in run("fit", "alice/tiny-GGUF").stdout


def test_what_was_measured_is_told_instead_of_estimated(run: Run, hub: Path) -> None:
    run("bench", "alice/tiny-GGUF", "-p", "8", "-n", "8", "-r", "1", "--n-gpu-layers", "0")
    fitted = json.loads(run("fit", "alice/tiny-GGUF", "--json", "--n-gpu-layers", "0").stdout)
    assert "measured by `phichat bench`" in fitted["tokens_per_second_from"]
    assert fitted["tokens_per_second"] > 0


def test_what_cannot_fit_exits_4_with_the_nearest_choice(run: Run, hub: Path) -> None:
    for verb in (["fit", "alice/tiny-GGUF"], ["ask", "-m", "alice/tiny-GGUF", "hi"]):
        done = run(*verb, "--ctx-size", "2000000000", "--n-gpu-layers", "0")
        assert done.returncode == 4
        assert "--ctx-size" in done.stderr.splitlines()[-1].split(". ")[-1]


def test_unknown_models_exit_3(run: Run) -> None:
    for verb in ("fit", "show", "rm", "verify"):
        done = run(verb, "phi-4-minni")
        assert done.returncode == 3
        assert "phi-4-mini" in one_sentence(done)


def test_doctor_tells_of_disk_and_cache(run: Run, hub: Path) -> None:
    at(hub.resolve().parent / ("c" * 64 + ".incomplete"), b"123")
    findings = json.loads(run("doctor", "--json").stdout)
    subjects = {finding["subject"]: finding for finding in findings}
    assert "free" in subjects["hub cache"]["found"]
    assert "alice/tiny-GGUF" in subjects["unfinished"]["found"]
    assert "phichat pull alice/tiny-GGUF" in subjects["unfinished"]["remedy"]
    assert any("from hub" in finding["found"] for finding in findings)


def test_what_is_damaged_is_repaired_from_the_hub(run: Run, hub: Path) -> None:
    content = hub.read_bytes()
    with hub.open("r+b") as file:
        file.write(b"damaged!")
    with stand_in() as server:
        server.repositories["alice/tiny-GGUF"] = Repository({"tiny-F32.gguf": content}, commit=hub.parent.name)
        done = run("verify", "--repair", "--json", HF_ENDPOINT=server.url)
        assert done.returncode == 0, done.stderr
        assert all(result["ok"] for result in json.loads(done.stdout))
    assert hub.read_bytes() == content


def test_what_cannot_be_repaired_says_what_to_do(run: Run, hub: Path, tmp_path: Path) -> None:
    in_ollama(tmp_path / "ollama", "x", "latest", b"one").write_bytes(b"two")
    done = run("verify", "x", "--repair")
    assert done.returncode == 1
    assert "ollama pull x:latest" in done.stderr.splitlines()[-1]
    hub.write_bytes(b"damaged")
    done = run("verify", "alice/tiny-GGUF", "--repair", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_doctor_asks_the_hub_only_when_it_is_told_to(run: Run, hub: Path) -> None:
    with stand_in() as server:
        findings = json.loads(run("doctor", "--online", "--json", HF_ENDPOINT=server.url).stdout)
        assert [finding for finding in findings if finding["subject"] == "hub" and server.url in finding["found"]]
    done = run("doctor", "--online", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert next(each for each in json.loads(done.stdout) if each["subject"] == "hub")["health"] == "bad"
