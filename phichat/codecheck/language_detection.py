"""Languages of blocks without a label, decided only where they are certain."""

import ast
import re

from phichat.codecheck.syntax import try_parse

_COMMANDS = frozenset((
    "pip", "pip3", "pipx", "python", "python3", "py", "uv", "uvx", "poetry", "conda", "mamba", "cd", "git", "npm",
    "npx", "yarn", "pnpm", "docker", "docker-compose", "sudo", "apt", "apt-get", "brew", "curl", "wget", "mkdir",
    "source", "export", "ls", "chmod", "flask", "uvicorn", "gunicorn", "pytest", "streamlit", "django-admin",
    "cargo", "make", "cmake", "rustup", "kubectl", "ssh", "scp", "virtualenv", "pipenv", "winget", "choco",
    "ollama", "huggingface-cli", "touch", "echo", "cp", "mv", "rm",
))  # fmt: skip
_AMBIGUOUS_COMMANDS = frozenset((
    "make", "source", "export", "touch", "echo", "python", "py", "flask", "rm", "cp", "mv", "ls",
))  # fmt: skip
"""Also words of prose or of other languages: one of the other commands must accompany them."""

_SHELL_PROMPT = re.compile(r"(?:\([\w.-]+\) ?)?(?:[\w.@~/:-]+)?[$%] (?=\S)")
_FOREIGN_IMPORT = re.compile(
    r"\s*import +(?:static +)?(?:java|javax|jakarta|android|androidx|kotlin|kotlinx|scala|org|com|io|net|"
    r"Foundation|UIKit|SwiftUI|Data|Control|System)\b(?:[.\w*]*);?\s*$"
)
_PYTHON_LINE = re.compile(
    r"\s*(?:(?:async )?def \w{1,100}\(.{0,300}\).{0,100}:\s*(?:#.*)?$|class \w{1,100}(?:\(.{0,200}\))?:\s*(?:#.*)?$"
    r"|from [\w.]{1,100} import [\w*(, ]+$|elif .{1,200}:\s*$|except(?: [\w. ,()]{1,100})?:\s*$|if __name__ ==)"
)
_PLAIN_IMPORT = re.compile(r"\s*import [\w.]+(?: as \w+)?(?:, ?[\w.]+(?: as \w+)?)*\s*(?:#.*)?$")
_NON_PYTHON_LINE = re.compile(r"[^#\n]*(?:[;{]|=>)\s*$")
_PROGRAM_OUTPUT = re.compile(r"Traceback \(most recent call last\)|^(?:---|\+\+\+|@@|diff )|[├└│]", re.MULTILINE)

_PYTHON_CALLS = frozenset((
    "print", "len", "range", "sorted", "open", "input", "sum", "list", "dict", "set", "int", "str", "float", "zip",
    "enumerate", "map",
))  # fmt: skip
_STATEMENTS = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.With,
    ast.AsyncWith, ast.Try, ast.If, ast.Match,
)  # fmt: skip
_PYTHON_EXPRESSIONS = (ast.ListComp, ast.DictComp, ast.SetComp, ast.Lambda)
_MAX_CHARS = 100_000


def looks_like_python(code: str, *, unmarked: bool = True) -> bool:
    """Return True for unlabelled text that is certainly Python; unmarked: no fence marks it as code either."""
    if len(code) > _MAX_CHARS or _PROGRAM_OUTPUT.search(code):
        return False
    lines = [line for line in code.splitlines() if line.strip()]
    if not lines:
        return False
    if any(line.lstrip().startswith((">>> ", "In [1]: ")) for line in lines[:3]):
        return True
    python_lines = sum(1 for line in lines if _PYTHON_LINE.match(line))
    other_lines = sum(1 for line in lines if _NON_PYTHON_LINE.match(line) or _FOREIGN_IMPORT.match(line))
    if other_lines * 3 > len(lines):
        return False
    margin = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    tree, _ = try_parse("\n".join(line.removeprefix(margin) for line in code.splitlines()))
    if tree is None:
        imports = sum(1 for line in lines if _PLAIN_IMPORT.match(line))
        return not other_lines and (python_lines >= 2 or (python_lines >= 1 and imports >= 1)) and not unmarked
    return _is_meaningful(tree)


def _is_meaningful(tree: ast.Module) -> bool:
    """Return True for a module that was meant as one: logs, tables and other languages sometimes parse too."""
    assigned: set[str] = set()
    for node in tree.body:
        if isinstance(node, _STATEMENTS):
            return True
        match node:
            case ast.Assign(targets=[ast.Name(id=name), *_], value=value):
                assigned.add(name)
                if any(isinstance(part, _PYTHON_EXPRESSIONS) for part in ast.walk(value)):
                    return True
                if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in _PYTHON_CALLS:
                    return True
            case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=args)):
                if name in assigned or (name in _PYTHON_CALLS and args):
                    return True
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))) if name in assigned:
                return True
    return False


def looks_like_shell(code: str) -> bool:
    """Return True for unlabelled text that is a list of shell commands."""
    lines = [line.strip() for line in code.splitlines() if line.strip()]
    if not lines or len(code) > _MAX_CHARS:
        return False
    if _SHELL_PROMPT.match(lines[0]):
        return True
    commands = [line for line in lines if not line.startswith("#")]
    words = [line.split()[0].removeprefix("!") for line in commands]
    if not commands or not _COMMANDS.issuperset(words):
        return False
    is_certain = not _AMBIGUOUS_COMMANDS.issuperset(words)
    return is_certain or any(re.match(r"python3? (?:-m )?[\w./-]+", line) for line in commands)
