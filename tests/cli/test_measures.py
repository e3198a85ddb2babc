"""`bench`, `doctor` and `path`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.demo_model import embedded_model, no_other_models
from support.tiny_gguf import write_tiny_llama


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **no_other_models(home), "PHICHAT_HOME": str(home)}
    command = [sys.executable, "-m", "phichat", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_bench_measures_both_directions(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "tiny.gguf"))
    done = run(tmp_path, "bench", model, "-p", "64", "-n", "8", "-r", "2", "--json")
    document = json.loads(done.stdout)
    assert document["model"] == "tiny"
    assert [document[name]["tokens"] for name in ("prompt", "generation")] == [64, 8]
    assert all(document[name]["tokens_per_second"] > 0 for name in ("prompt", "generation"))
    assert document["memory_bandwidth_gb_s"] > 0
    assert 0 < document["share_of_limit"] < 2
    assert set(document) >= {"threads", "n_gpu_layers"}


def test_bench_for_people(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "tiny.gguf"))
    shown = run(tmp_path, "bench", model, "-p", "8", "-n", "4", "-r", "1").stdout
    assert "prompt evaluation" in shown
    assert "tokens/s" in shown


def test_bench_tunes_and_what_it_found_is_used_and_shown(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "tiny.gguf"))
    document = json.loads(run(tmp_path, "bench", model, "--tune", "--json").stdout)
    assert document["trials"][0]["threads"] == document["usual_threads"]
    tried = [trial["threads"] for trial in document["trials"]]
    assert {document["threads"], document["prompt_threads"]} <= set(tried)
    assert bool(document["spins"]) == (document["spin_count"] is not None)
    kept = json.loads((tmp_path / "cache" / "tuning.json").read_text())
    assert document["remembered_in"] == str(tmp_path / "cache" / "tuning.json")
    # What another measurement might have found is used, unless the user says otherwise.
    other = {key: {**entry, "threads": 1, "prompt_threads": 3} for key, entry in kept.items()}
    (tmp_path / "cache" / "tuning.json").write_text(json.dumps(other))
    short = ("-p", "8", "-n", "4", "-r", "1", "--json")
    measured = json.loads(run(tmp_path, "bench", model, *short).stdout)
    assert (measured["threads"], measured["prompt_threads"]) == (1, 3)
    measured = json.loads(run(tmp_path, "bench", model, *short, "--threads", "2").stdout)
    assert (measured["threads"], measured["prompt_threads"]) == (2, 2)
    findings = json.loads(run(tmp_path, "doctor", "-m", model, "--json").stdout)
    assert any(
        "1 threads for generation and 3 for prompts" in one["found"] for one in findings if one["subject"] == "tuned"
    )


def test_threads_that_are_given_are_not_tuned(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "tiny.gguf"))
    done = run(tmp_path, "bench", model, "--tune", "--threads", "2")
    assert done.returncode == 2
    assert "--threads" in done.stderr
    assert not (tmp_path / "cache" / "tuning.json").exists()


def test_doctor_finds_a_healthy_machine_and_remembers_the_verdict(tmp_path: Path) -> None:
    embedded_model()
    done = run(tmp_path, "doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    assert set(findings) >= {"Python", "library", "built for", "device", "cores", "memory", "models", "loads"}
    assert "works" in findings["CPU buffers"]["found"] or findings["CPU buffers"]["remedy"]
    assert (tmp_path / "cache" / "engine.json").is_file()
    assert findings["KV states"]["found"].startswith(f"{tmp_path / 'cache' / 'states'}, 0.0 kB of at most")


def test_doctor_names_the_remedy_for_a_model_that_does_not_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    done = run(tmp_path, "doctor", "-m", str(broken), "--json")
    assert done.returncode == 1
    bad = [finding for finding in json.loads(done.stdout) if finding["health"] == "bad"]
    assert bad
    assert all(finding["remedy"] for finding in bad)


@pytest.mark.parametrize("place", ["config", "data", "cache", "models", "logs", "states"])
def test_path(tmp_path: Path, place: str) -> None:
    shown = run(tmp_path, "path", place).stdout.strip()
    assert shown.startswith(str(tmp_path)) or place == "models"
    assert json.loads(run(tmp_path, "path", "--json").stdout)[place] == shown
