"""`phichat check` as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

ANSWER = """\
Sure:

```python
import requests

def page(url):
    return requests.get(url).text
```

```bash
pip install sklearn
```
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    environment = {**os.environ, "PHICHAT_HOME": str(tmp_path / "home")}

    def start(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        # -P: a script that is installed does not look for modules in the working directory either.
        command = [sys.executable, "-P", "-m", "phichat", "check", *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, cwd=tmp_path, encoding="utf-8"
        )

    return start


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    path = tmp_path / "answer.md"
    path.write_text(ANSWER, encoding="utf-8")
    return path


def test_each_warning_is_a_line_with_its_place(run: Run, answer: Path) -> None:
    done = run(answer)
    assert done.returncode == 6
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{answer}:4: needs requests (")
    assert second.startswith(f"{answer}:11: ")
    assert "scikit-learn" in second


def test_json_is_the_report(run: Run, answer: Path) -> None:
    document = json.loads(run("--json", answer).stdout)
    assert list(document) == ["blocks", "other_languages", "installs", "warnings"]
    python, bash = document["blocks"]
    assert list(python) == [
        "language", "start_line", "python", "syntax_ok", "non_stdlib", "bad_apis", "notes",
    ]  # fmt: skip
    (package,) = python["non_stdlib"]
    assert (package["module"], package["distribution"], package["line"]) == ("requests", "requests", 1)
    assert package["status"] in ("installed", "known")
    assert (python["start_line"], python["python"], bash["language"], bash["python"]) == (4, True, "bash", False)
    assert document["other_languages"] == ["bash"]
    assert document["installs"] == [{"name": "sklearn", "status": "suspicious", "line": 11}]
    assert len(document["warnings"]) == 2


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_an_answer_can_be_piped_in(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, stdin=ANSWER)
    assert (done.returncode, done.stdout.partition(":")[0]) == (6, "stdin")
    assert run(*arguments, stdin="No code.\n").returncode == 0


def test_nothing_to_say_is_said_with_nothing(run: Run) -> None:
    done = run(stdin="```python\nimport os\nprint(os.getcwd())\n```\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_python_file_is_code_as_a_whole(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_bytes("# -*- coding: latin-1 -*-\n'''é\n```\n'''\nimport requests\n".encode("latin-1"))
    done = run(script)
    assert done.returncode == 6
    assert done.stdout.startswith(f"{script}:5: needs requests")


def test_the_version_of_a_project_is_the_lowest_that_it_allows(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.9,<4"\n')
    inside = tmp_path / "src" / "a.py"
    inside.parent.mkdir()
    inside.write_text("import tomllib\n")
    assert "tomllib needs Python 3.11" in run(inside).stdout
    assert run("--python-version", "3.12", inside).returncode == 0


def test_nothing_is_run_or_imported(run: Run, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    code = f"open({str(touched)!r}, 'w')\n"
    for name in ("json.py", "requests.py", "markdown_it.py", "script.py"):
        (tmp_path / name).write_text(code + "import requests\n")
    run("script.py")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("missing.md",), 1, "missing.md cannot be read"),
        ((".",), 1, "cannot be read"),
        (("big.md",), 1, "larger than"),
        (("odd.py",), 1, "encoding"),
        (("a.ipynb",), 1, "notebook"),
        (("--python-version", "2.7", "odd.py"), 2, "2.7"),
        (("--python-version", "three", "odd.py"), 2, "three"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "big.md").write_bytes(b"x\n" * 5_000_000)
    (tmp_path / "odd.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "a.ipynb").write_text("{}")
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert ". " in done.stderr


def test_the_age_of_the_lists_is_told(run: Run, answer: Path) -> None:
    assert "lists from 20" in run(answer).stderr
    assert "lists from 20" in " ".join(run("--help").stdout.split())


def test_an_answer_steers_no_terminal(run: Run) -> None:
    done = run(
        stdin="```python\nimport \x1b[31mos\nimport caf\u0301e\u202e\n```\n```bash\npip install a\x1b]0;x\n```\n"
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "\u202e" not in done.stdout + done.stderr
