"""Write phichat/codecheck/data/names.gz and near.bin: what the code check knows of package names.

    pip download --no-deps pigar==2.2.0 guarddog==3.2.0
    python tools/make_names.py pigar-2.2.0-py3-none-any.whl guarddog-3.2.0-py3-none-any.whl [--also NAMES]

pigar (BSD-3) ships a database of the top-level import names of the index's projects, guarddog (Apache-2.0) a list
of the most downloaded ones. NAMES: further names of projects that exist, one a line up to the first tab (a listing
of the index newer than pigar's), so that none of them is taken for a misspelling.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sqlite3
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from phichat.codecheck.names import ranks_of_modules, squashes_of
from phichat.codecheck.nearness import BloomFilter, is_slip, misspelt, normalised, variants
from phichat.codecheck.stdlib import standard_names

DATA = Path(__file__).parent.parent / "phichat" / "codecheck" / "data"
OVERRIDES = Path(__file__).with_name("import_names.txt")

BY_CHANCE = 40
"""A top-level name that more projects than that ship is nobody's: `tests`, `utils`, `examples`."""

UNMISTAKABLE = 300
"""Ranks below this are so popular that a slip of the fingers is one, whoever registered it."""

NAME = re.compile(r"[A-Za-z_]\w*\Z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pigar", type=Path)
    parser.add_argument("guarddog", type=Path)
    parser.add_argument("--also", type=Path)
    arguments = parser.parse_args()

    popular, popular_date = read_popular(arguments.guarddog)
    shipped, index_date = read_database(arguments.pigar)
    existing = {normalised(name) for name in shipped}
    if arguments.also:
        existing |= {normalised(line.partition("\t")[0]) for line in arguments.also.read_text("utf-8").splitlines()}
    shown = {normalised(name): name for name in shipped}
    popular = [shown.get(name, name) for name in popular]
    imports = imports_of(popular, shipped)

    meta = {
        "date": min(popular_date, index_date),
        "sources": {arguments.pigar.name: index_date, arguments.guarddog.name: popular_date},
        "projects": len(existing),
    }
    lines = "\n".join(
        [json.dumps(meta), " ".join(popular), *(f"{module} {project}" for module, project in imports.items())]
    )
    DATA.mkdir(exist_ok=True)
    (DATA / "names.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))

    modules = {module for names in shipped.values() for module in names}
    near = [f"d {name}" for name in near_projects(popular, existing)]
    near += [f"d {normalised(module)}" for module in imports.keys() - overridden() if normalised(module) in existing]
    near += [f"m {name}" for name in near_modules(popular, imports, modules)]
    (DATA / "near.bin").write_bytes(BloomFilter.of(near).bits)
    print(f"{len(popular)} projects, {len(imports)} import names, {len(near)} names excused")  # noqa: T201


def read_popular(wheel: Path) -> tuple[list[str], str]:
    """The most downloaded projects, most downloaded first, and the day of the count."""
    with zipfile.ZipFile(wheel) as archive:
        document = json.loads(archive.read("guarddog/analyzer/metadata/resources/top_pypi_packages.json"))
    names = dict.fromkeys(normalised(name) for name in document["packages"])
    return list(names), datetime.fromtimestamp(document["downloaded_timestamp"], UTC).date().isoformat()


def read_database(wheel: Path) -> tuple[dict[str, list[str]], str]:
    """Every project's top-level import names, and the day they were gathered."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        member = archive.getinfo("pigar/.db.sqlite3")
        database = sqlite3.connect(archive.extract(member, folder))
        shipped = {name: [] for (name,) in database.execute("SELECT name FROM distributions")}
        rows = database.execute(
            "SELECT d.name, t.name FROM top_level_module_names t JOIN distributions d ON d.id = t.distribution_id"
        )
        for project, module in rows:
            if NAME.match(module):
                shipped[project].append(module)
        database.close()
    year, month, day = member.date_time[:3]
    return shipped, f"{year:04}-{month:02}-{day:02}"


def imports_of(popular: list[str], shipped: dict[str, list[str]]) -> dict[str, str]:
    """Which popular project an import name belongs to, where the two names differ; the most popular first."""
    shippers = Counter(module for modules in shipped.values() for module in set(modules))
    owners: dict[str, list[str]] = defaultdict(list)
    for project in popular:
        for module in shipped.get(project, []):
            owners[module].append(project)
    named = {normalised(project): project for project in popular}
    standard = standard_names()
    found: dict[str, str] = {}
    for module, projects in owners.items():
        if normalised(module) in named or module in standard or module.startswith("_"):
            continue
        if shippers[module] > BY_CHANCE and len(projects) * 5 < shippers[module]:
            continue
        found[module] = next((name for name in projects if normalised(name).endswith(normalised(module))), projects[0])
    return overridden() | {module: project for module, project in found.items() if module not in overridden()}


def overridden() -> dict[str, str]:
    lines = (line for line in OVERRIDES.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {module: project for module, _, project in (line.partition(" ") for line in lines)}


def near_projects(popular: list[str], existing: set[str]) -> Iterator[str]:
    """Names of existing projects that are like a popular one's by chance: no misspellings of it."""
    ranks = {normalised(name): rank for rank, name in enumerate(popular)}
    yield from excused(existing, ranks)


def near_modules(popular: list[str], imports: dict[str, str], modules: set[str]) -> Iterator[str]:
    """Existing import names that are like a popular one by chance, in its very spelling or in another."""
    ranks = ranks_of_modules(popular, imports)
    yield from excused({normalised(module) for module in modules}, ranks)
    for module in modules:
        if ranks.get(normalised(module), 0) >= UNMISTAKABLE:
            yield module


def excused(existing: set[str], ranks: dict[str, int]) -> Iterator[str]:
    squashes = squashes_of(ranks)
    within_one_edit = {near for name in ranks for near in variants(name) if near in existing}
    for name in existing - ranks.keys():
        if name in within_one_edit or not name.isalpha():
            meant = misspelt(name, ranks, squashes)
            if meant and not (ranks[meant] < UNMISTAKABLE and len(meant) >= 4 and is_slip(name, meant)):
                yield name


if __name__ == "__main__":
    main()
