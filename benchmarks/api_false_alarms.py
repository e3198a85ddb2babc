"""False alarms of the API check on working library code, and how many invented names it finds there.

usage: api_false_alarms.py [FOLDER_OR_FILE...] [--mutants N]

Without a folder: the site-packages of the Python that runs this. Every finding is printed; each is a false alarm,
or a real fault of the library. A mutant is one file with one attribute of a module or one keyword of a call changed.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import sysconfig
import warnings
from pathlib import Path

from phichat.codecheck.apis.checker import find_bad_apis


def parsed(path: Path) -> tuple[ast.Module, int] | None:
    try:
        text = path.read_text("utf-8")
        return ast.parse(text), text.count("\n")
    except (SyntaxError, UnicodeError, ValueError, RecursionError):
        return None


def mutate(tree: ast.Module, chance: random.Random, *, keyword: bool) -> str | None:
    """Invents one name where the code uses the standard library; what it was, None when there is no such place."""
    modules = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in sys.stdlib_module_names
    }
    places = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and isinstance(node.ctx, ast.Load)
    ]
    if keyword:
        called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        calls = [called[id(place)] for place in places if id(place) in called]
        if not calls:
            return None
        call = chance.choice(calls)
        call.keywords.append(ast.keyword("invented_word", ast.Constant(1), lineno=call.lineno, col_offset=0))
        return ast.unparse(call.func)
    if not places:
        return None
    place = chance.choice(places)
    place.attr += "_invented"
    return ast.unparse(place)


def main() -> None:
    warnings.simplefilter("ignore")
    options = argparse.ArgumentParser()
    options.add_argument("places", nargs="*", type=Path)
    options.add_argument("--mutants", type=int, default=0)
    given = options.parse_args()
    places = given.places or [Path(sysconfig.get_path("purelib"))]
    files = sorted({file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])})
    target = (sys.version_info[0], sys.version_info[1])
    lines = flags = 0
    for file in files:
        if found := parsed(file):
            lines += found[1]
            for bad in find_bad_apis(found[0], target):
                flags += 1
                sys.stdout.write(f"{file}:{bad.line}: {bad.name} {bad.message}\n")
    sys.stdout.write(f"{flags} findings in {lines} lines: {1000 * flags / max(lines, 1):.3f} in 1000\n")
    chance = random.Random(6)
    for keyword in (False, True) if given.mutants else ():
        tried = hit = 0
        for file in chance.sample(files, len(files)):
            found = parsed(file)
            if tried >= given.mutants or not found or not (what := mutate(found[0], chance, keyword=keyword)):
                continue
            tried += 1
            wanted = "invented_word=" if keyword else "_invented"
            if any(wanted in bad.name for bad in find_bad_apis(found[0], target)):
                hit += 1
            else:
                sys.stdout.write(f"not found in {file}: {what}\n")
        sys.stdout.write(f"{hit} of {tried} invented {'keywords' if keyword else 'attributes'} found\n")


if __name__ == "__main__":
    main()
