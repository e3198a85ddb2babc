"""Rules about the packages that hold for every module, also for new ones; what may import what stands in pyproject."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from phichat import __version__

ROOT = Path(__file__).parents[1]
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


def _read_modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of phichat/, by its dotted name."""
    modules = {}
    for path in sorted((ROOT / "phichat").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = ast.parse(path.read_text("utf-8"))
    return modules


def _iter_imports(node: ast.AST) -> Iterator[str]:
    """Yield what is imported anywhere under a node, lazy imports included, those for type checkers excluded."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _iter_imports(child)


def test_no_import_circles() -> None:
    modules = _read_modules()
    graph = {
        name: {found if found in modules else found.rpartition(".")[0] for found in _iter_imports(tree)} - {name}
        for name, tree in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_class_name_is_defined_twice() -> None:
    definitions = defaultdict(list)
    for name, tree in _read_modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                definitions[node.name].append(name)
    assert {name: places for name, places in definitions.items() if len(places) > 1} == {}


def test_modules_are_named_by_nouns() -> None:
    stems = {name.rpartition(".")[2] for name in _read_modules()}
    assert {stem for stem in stems if "_" not in stem and stem.endswith(("ing", "ed"))} - {"speed"} == set()


def test_files_have_at_most_400_lines() -> None:
    sizes = {path: path.read_bytes().count(b"\n") for path in (ROOT / "phichat").rglob("*.py")}
    assert [(str(path), size) for path, size in sizes.items() if size > 400] == []


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_import_no_engine(flag: str) -> None:
    program = (
        "import sys\n"
        "from phichat.cli.app import run_command_line\n"
        f"code = run_command_line([{flag!r}])\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), code)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[] 0"


def test_version_is_that_of_the_package() -> None:
    shown = subprocess.run([sys.executable, "-m", "phichat", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"phichat {__version__}\n"


def test_clients_of_the_engine_process_never_load_llama_cpp() -> None:
    program = (
        "import sys\n"
        "import phichat.services.backend_factory, phichat.cli.ask, phichat.cli.bench, phichat.cli.doctor\n"
        "print('llama_cpp' in sys.modules, 'jinja2' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown == "False False\n"
