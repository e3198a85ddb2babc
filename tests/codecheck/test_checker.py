"""From an answer to its report, on answers as models write them."""

import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.code_report import CodeReport, PackageStatus, TrainingScope
from phichat.codecheck.checker import check_answer, check_file, format_block_warnings

BLOCK = "```python\n{}\n```\n"


def modules(text: str) -> list[str]:
    return [package.module for block in check_answer(text).blocks for package in block.non_stdlib]


def installs(text: str) -> list[str]:
    return [install.name for install in check_answer(text).installs]


def only_block(code: str, target: tuple[int, int] = (3, 12)) -> tuple[bool, tuple[str, ...]]:
    (block,) = check_answer(BLOCK.format(code), target=target).blocks
    return block.syntax_ok, block.notes


@pytest.mark.parametrize(
    ("answer", "start_line"),
    [
        ("```python\nimport numpy\n```", 2),
        ("~~~ Py\nimport numpy\n~~~", 2),
        ("````python\nimport numpy\n````", 2),
        ("1. Do:\n\n   ```python3 title='a.py'\n   import numpy\n   ```", 4),
        ("> ```{.python .numberLines}\n> import numpy\n> ```", 2),
        ("> - ```py:src/a.py\n>   import numpy\n>   ```", 2),
        ("```{code-cell} ipython3\nimport numpy\n```", 2),
        ("Text:\n\n    import numpy\n\n    def f():\n        pass\n", 3),
        ("```\nimport numpy\nx = numpy.zeros(3)\n```", 2),
        ("```markdown\n# A\n\n~~~python\nimport numpy\n~~~\n```", 5),
        ("import numpy\n\ndef f():\n    return numpy.zeros(3)\n", 1),
        ("Here you are:\n\nimport numpy\n\ndef f():\n    return 1\n\nThat was it.\n", 3),
        ("```app.py\nimport numpy\n```", 2),
        ("\ufeff```python\r\nimport numpy\r\n```\r\n", 2),
        ("```python\n>>> import numpy\n>>> 1 / 0\nTraceback (most recent call last):\n```", 2),
        ("```ipython\nIn [1]: import numpy\n\nIn [2]: f(1,\n   ...: 2)\nOut[2]: 3\n```", 2),
        ("```python\n%%time\n!pip list\nimport numpy\n%matplotlib inline\nx = !ls\n```", 2),
        ("```python\n    import numpy\n    x = 1\n```", 2),
    ],
)
def test_python_is_found_however_it_is_written(answer: str, start_line: int) -> None:
    (block,) = check_answer(answer).blocks
    assert (block.python, block.start_line) == (True, start_line)
    assert [package.module for package in block.non_stdlib] == ["numpy"]
    assert block.syntax_ok


@pytest.mark.parametrize(
    "answer",
    [
        "Use `import numpy` and then `numpy.zeros(3)`.",
        "```text\nimport numpy\n```",
        '```json\n{"import": "numpy"}\n```',
        "```diff\n-import numpy\n+import scipy\n```",
        "```\nTraceback (most recent call last):\n  import numpy\nModuleNotFoundError\n```",
        "```\nproject\n├── numpy.py\n└── b.py\n```",
        "```\n[1, 2, 3]\nTrue\n```",
        "```\nname = demo\nkey = 'value'\n```",
        "```python\nx = '''\nimport numpy\n'''\n# import numpy\n```",
        "```python\nprint 'broken'  # import numpy\n'''\nimport numpy\n```",
        "import what you need from numpy",
        "from numpy import zeros is all you need",
    ],
)
def test_what_is_no_code_imports_nothing(answer: str) -> None:
    assert modules(answer) == []


def test_imports_are_found_everywhere_and_once() -> None:
    code = (
        "import os, requests\nimport requests.adapters\n\ndef f():\n    from bs4 import BeautifulSoup\n\n"
        "try:\n    import ujson\nexcept ImportError:\n    import json\n"
        "if TYPE_CHECKING:\n    import pandas as pd\n"
        "m = importlib.import_module('scipy.stats')\nn = __import__('tqdm')\no = importlib.import_module(name)\n"
        "from . import sibling\nfrom .models import User\n"
    )
    (block,) = check_answer(BLOCK.format(code)).blocks
    found = [(package.module, package.line) for package in block.non_stdlib]
    assert found == [("requests", 1), ("bs4", 5), ("ujson", 8), ("pandas", 12), ("scipy", 13), ("tqdm", 14)]


@pytest.mark.parametrize(
    "naming",
    [
        "**helpers.py**\n\n```python\nx = 1\n```\n",
        "### `src/helpers.py`\n\n```python\nx = 1\n```\n",
        '```python title="helpers.py"\nx = 1\n```\n',
        "```python\n# helpers.py\nx = 1\n```\n",
        "Save the following as `helpers.py`:\n\n```python\nx = 1\n```\n",
        "```\nproject/\n├── helpers/\n│   └── __init__.py\n└── main.py\n```\n",
        "```python\n%%writefile helpers.py\nx = 1\n```\n",
        "```bash\ncat > helpers.py\n```\n",
    ],
)
def test_files_of_the_answer_are_no_packages(naming: str) -> None:
    assert modules(naming + BLOCK.format("from helpers import x\nimport requests")) == ["requests"]


def test_a_project_that_is_called_like_a_file_is_no_file() -> None:
    assert modules("I use discord.py here.\n" + BLOCK.format("import discord")) == ["discord"]


@pytest.mark.parametrize("module", ["urllib2", "ConfigParser", "distutils.core"])
def test_a_module_of_an_older_python_is_reported_and_not_installed(module: str) -> None:
    report = check_answer(BLOCK.format(f"import {module}"), target=(3, 13))
    (block,) = report.blocks
    assert block.non_stdlib == ()
    assert module.partition(".")[0] in block.notes[0]
    assert not any("pip install" in line for line in report.warnings)


def test_a_module_that_the_code_is_prepared_to_miss_gets_no_warning() -> None:
    guarded = "try:\n    import tomllib\nexcept ImportError:\n    import tomli as tomllib\n"
    tested = "import sys\nif sys.version_info >= (3, 11):\n    import tomllib\nelse:\n    import tomli\n"
    for code in (guarded, tested):
        assert only_block(code, (3, 10)) == (True, ())
    assert "tomllib needs Python 3.11" in only_block("import tomllib", (3, 10))[1]


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (
            "```bash\npip install requests 'flask>=2' uvicorn[standard]==0.3 # web\n```",
            ["requests", "flask", "uvicorn"],
        ),
        ("```sh\n$ python3 -m pip install -U -r requirements.txt -i https://x.org/simple numpy\n```", ["numpy"]),
        ("```console\n(venv) $ uv add httpx --dev && uv pip install rich\n```", ["httpx", "rich"]),
        ("```bash\npoetry add pendulum@^3.0 -G dev\nconda install pytorch\n```", ["pendulum"]),
        ("```shell\npip install \\\n    pandas \\\n    polars\n```", ["pandas", "polars"]),
        ("```bash\npip install -e . ./local git+https://x.org/a.git a.whl https://x.org/b.zip\n```", []),
        ("```python\n!pip install -q transformers\n%pip install datasets\n```", ["transformers", "datasets"]),
        ("```python\n%%bash\npip install gradio\n```", ["gradio"]),
        ("```python\n# pip install openai if you have not yet\nimport openai\n```", ["openai"]),
        ("Run `pip install streamlit` first.", ["streamlit"]),
        ("```\npip install pyserial\n```", ["pyserial"]),
        ("```dockerfile\nFROM python\nRUN pip install --no-cache-dir gunicorn\n```", ["gunicorn"]),
        ("```powershell\nPS C:\\> py -m pip install pywin32\n```", ["pywin32"]),
        ("```bash\npip install <package> $NAME your-package\npip uninstall flask\nnpm install express\n```", []),
        ("```bash\npip list\npip freeze > requirements.txt\npip --version\n```", []),
    ],
)
def test_install_commands(answer: str, names: list[str]) -> None:
    assert installs(answer) == names


def test_what_does_not_exist_is_reported_by_its_full_name() -> None:
    report = check_answer(BLOCK.format("import math as m\nm.nope\nprint(1, ends='')"))
    assert report.warnings == ("math.nope does not exist", "print(ends=) does not exist")


def test_a_name_that_nobody_means_is_suspicious() -> None:
    report = check_answer(BLOCK.format("import reqeusts") + "```bash\npip install sklearn\n```\n")
    assert report.blocks[0].non_stdlib[0].status is PackageStatus.SUSPICIOUS
    assert report.installs[0].status is PackageStatus.SUSPICIOUS
    assert "reqeusts" in report.warnings[0]
    assert "scikit-learn" in report.warnings[1]


def test_languages_have_one_name_each_and_data_has_none() -> None:
    labels = (
        "C++",
        "sh",
        "console",
        "node",
        "ts",
        "C#",
        "golang",
        "json",
        "yaml",
        "text",
        "output",
        "mermaid",
        "python",
    )
    answer = "".join(f"```{label}\nx\n```\n\n" for label in labels)
    assert check_answer(answer).other_languages == ("cpp", "bash", "javascript", "typescript", "csharp", "go")


@pytest.mark.parametrize(
    ("code", "target", "ok", "note"),
    [
        ("match x:\n    case 1: pass", (3, 10), True, ""),
        ("match x:\n    case 1: pass", (3, 9), False, "3.10"),
        ("try:\n    pass\nexcept* ValueError:\n    pass", (3, 10), False, "3.11"),
        ("type X = int", (3, 12), True, ""),
        ("type X = int", (3, 11), False, ""),
        ("def f[T](x: T) -> T: return x", (3, 12), True, ""),
        ("class A[T](Base): pass", (3, 13), True, ""),
        ("print(f'{x['a']}')", (3, 12), True, ""),
        ("await x\nreturn 1\nyield 2", (3, 10), True, ""),
        ("def f(x):\n    ...", (3, 10), True, ""),
        ("print 'hello'", (3, 12), False, "Python 2"),
        ("def f(:\n    pass", (3, 12), False, "line 1"),
        ("x = (1,\n", (3, 12), False, "line 1"),
    ],
)
def test_syntax_is_judged_for_the_version_asked_for(code: str, target: tuple[int, int], ok: bool, note: str) -> None:
    found, notes = only_block(code, target)
    assert found is ok
    assert note in " ".join(notes)
    assert bool(notes) is not ok


def test_broken_code_still_tells_its_imports() -> None:
    code = 'import numpy as np, scipy\nfrom bs4 import (BeautifulSoup,\ns = "import flask"\n<your code>\n'
    (block,) = check_answer(BLOCK.format(code)).blocks
    assert not block.syntax_ok
    assert [package.module for package in block.non_stdlib] == ["numpy", "scipy", "bs4"]


@pytest.mark.parametrize(
    "ending", ["import matplotl", "import requests\nimport matplotl", "def f(x:\n  y = (1,\n  matplotl"]
)
def test_the_unfinished_line_of_an_unfinished_block_gives_no_verdict(ending: str) -> None:
    report = check_answer("```python\nimport numpy\n" + ending)
    assert "matplotl" not in str(report)
    assert report.blocks[0].syntax_ok
    assert report.blocks[0].non_stdlib[0].module == "numpy"


def test_a_block_that_breaks_off_within_a_statement_is_no_broken_code() -> None:
    for ending in (
        "try:\n    x = 1\n",
        "def f():\n",
        "x = [\n  1,\n",
        "s = '''abc\n",
        "@decorated\n",
        "if x:\n  try:\n    y()\n",
    ):
        (block,) = check_answer("```python\nimport numpy\n" + ending).blocks
        assert block.syntax_ok, ending
        assert [package.module for package in block.non_stdlib] == ["numpy"], ending


def test_what_the_model_card_does_not_name_is_reported_last() -> None:
    scope = TrainingScope(("python",), ("math",))
    report = check_answer(BLOCK.format("import requests") + "```bash\nls\n```\n", scope=scope)
    assert [line.partition(":")[0].partition(" ")[0] for line in report.warnings] == ["needs", "requests", "bash"]
    assert report.warnings[0].startswith("needs requests (")
    assert report.warnings[2] == "bash: outside this model's main training (Python); verify by hand"
    assert check_answer("```bash\nls\n```\n").warnings == ()


def test_the_warnings_of_the_blocks_are_those_of_the_report() -> None:
    answer = BLOCK.format("import reqeusts, flask, urllib2") + BLOCK.format("import (") + "```rust\nfn main() {}\n```\n"
    report = check_answer(answer, scope=TrainingScope(("python",), ()))
    assert {line for block in report.blocks for line in format_block_warnings(block)} == set(report.warnings)


def test_a_file_is_one_block_from_its_first_line() -> None:
    (block,) = check_file("#!/usr/bin/env python\n'''```'''\nimport requests").blocks
    assert (block.start_line, [package.module for package in block.non_stdlib]) == (1, ["requests"])


def test_warnings_of_the_compiler_reach_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_answer(BLOCK.format("x = '\\d'\nassert (1, 'a')\n1 is 1"))


HOSTILE = {
    "parentheses": "(" * 90_000,
    "unary": "x = " + "-" * 50_000 + "1",
    "sum": "x = " + "+".join("1" * 30_000),
    "attributes": "a" + ".b" * 100_000,
    "long": "9" * 1_000_000,
    "quotes": '"""' * 50_001,
    "nul": "import os\0\x1b[31m",
    "prompts": ">>> " * 100_000,
    "options": "!pip install " + "-r " * 100_000,
    "blocks": "\n".join(" " * n + "if x:" for n in range(300)),
    "backslashes": "\\\n" * 5_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_in_an_answer_makes_the_check_fail(kind: str) -> None:
    for answer in (
        BLOCK.format(HOSTILE[kind]),
        "```python\n" + HOSTILE[kind],
        HOSTILE[kind],
        "> " * 5_000 + HOSTILE[kind],
    ):
        report = check_answer(answer)
        assert all(line.isprintable() and len(line) <= 200 for line in report.warnings)


PIECES = st.sampled_from(
    ["```", "~~~", "````", "python", "py", "bash", "\n", "\n\n", "    ", "> ", "- ", "import numpy", "from a import b",
     "def f(x):", " return 1", "try:", "x = (1,", '"""', "'", "#",
     "pip install flask", "!pip install rich", ">>> ", "... ", "%%bash",
     "`", "a.py", "print 'x'", "\r\n", "\0", "\x1b[31m", "\u202e", "├── a.py", "{", "}",
     "=", ":", "markdown", "é", "In [1]: "]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40).map("".join))
@settings(max_examples=150, deadline=None)
def test_any_text_has_a_report(text: str) -> None:
    report = check_answer(text)
    assert isinstance(report, CodeReport)
    lines = text.count("\n") + text.count("\r") + 1
    for block in report.blocks:
        assert 1 <= block.start_line <= lines + 1
    assert all(line.isprintable() for line in report.warnings)


def test_a_cut_off_answer_warns_of_nothing_that_the_whole_does_not_have() -> None:
    answer = (
        "Install:\n\n```bash\npip install requests beautifulsoup4\n```\n\n"
        "```python\nimport requests\nfrom bs4 import BeautifulSoup\n"
        "try:\n    import tomllib\nexcept ImportError:\n    tomllib = None\n\nclass A:\n    def f(self, url):\n"
        "        with requests.get(url) as page:\n            return BeautifulSoup(page.text, 'lxml')\n```\n\n"
        "Run `pip install lxml`.\n"
    )  # fmt: skip
    whole = set(check_answer(answer).warnings)
    for at in random.Random(6).sample(range(len(answer)), 80):
        assert set(check_answer(answer[:at]).warnings) <= whole, answer[:at][-60:]
