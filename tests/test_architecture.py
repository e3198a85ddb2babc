"""What the house promises about itself, each in a fresh interpreter."""

import subprocess
import sys

import pytest

from phichat import __version__

HEAVY = (
    "llama_cpp",
    "huggingface_hub",
    "textual",
    "sqlite3",
    "jinja2",
    "psutil",
    "platformdirs",
    "markdown_it",
    "pygments",
    "starlette",
    "uvicorn",
)


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_asking_for_the_version_or_help_imports_no_engine(flag: str) -> None:
    program = (
        "import sys\n"
        "from phichat.cli.app import run_command_line\n"
        f"code = run_command_line([{flag!r}])\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), code)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[] 0"


def test_the_version_is_the_packages() -> None:
    shown = subprocess.run([sys.executable, "-m", "phichat", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"phichat {__version__}\n"


def test_the_supervisor_never_loads_the_library() -> None:
    program = (
        "import sys\n"
        "import phichat.services.backend_factory, phichat.cli.ask, phichat.cli.bench, phichat.cli.doctor\n"
        "print('llama_cpp' in sys.modules, 'jinja2' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown == "False False\n"
