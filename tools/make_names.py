"""Write phichat/codecheck/data/{names.txt,likely.bin,existing.bin}: the code check's lists of package names.

    pip download --no-deps pigar==2.2.0 guarddog==3.2.0
    python tools/make_names.py pigar-2.2.0-py3-none-any.whl guarddog-3.2.0-py3-none-any.whl [--also NAMES]

pigar (BSD-3) ships a database of the top-level import names of the index's projects, guarddog (Apache-2.0) a list
of the most downloaded ones. NAMES: further names of projects that exist, one a line up to the first tab (a listing
of the index newer than pigar's), so that none of them is taken for a misspelling.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from phichat.codecheck.stdlib import stdlib_module_names
from phichat.codecheck.typos import BloomFilter, TypoIndex, is_plausible_typo, iter_deletions, normalize_name

DATA = Path(__file__).parent.parent / "phichat" / "codecheck" / "data"
OVERRIDES = Path(__file__).with_name("import_names.txt")

BY_CHANCE = 40
"""A top-level name that more projects than that ship is nobody's: `tests`, `utils`, `examples`."""

UNMISTAKABLE = 1500
"""Ranks below this are so popular that a slip of the fingers is one, whoever registered it."""

A_WORD = 5
"""A module that so many projects ship is a name that people choose: `Model`, `scheme`."""

NAME = re.compile(r"[A-Za-z_]\w*\Z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pigar", type=Path)
    parser.add_argument("guarddog", type=Path)
    parser.add_argument("--also", type=Path)
    parser.add_argument("--out", type=Path, default=DATA)
    arguments = parser.parse_args()

    popular, popular_date = read_popular(arguments.guarddog)
    shipped, index_date = read_database(arguments.pigar)
    shown = {normalize_name(name): name for name in shipped}
    popular += sorted({normalize_name(project) for project in overridden().values() if project} - set(popular))
    popular = [shown.get(name, name) for name in popular]
    imports = imports_of(popular, shipped)
    misnamed = misnamed_projects(popular, imports, shipped)
    likely = likely_names(popular, imports)
    sources = {arguments.pigar.name: index_date, arguments.guarddog.name: popular_date}
    existing = set(shown)
    if arguments.also:
        existing |= {normalize_name(line.partition("\t")[0]) for line in arguments.also.read_text("utf-8").splitlines()}
        listed = datetime.fromtimestamp(arguments.also.stat().st_mtime, UTC).date().isoformat()
        sources["a list of all project names"] = listed

    meta = {"date": min(popular_date, index_date), "sources": sources, "projects": len(existing)}
    columns = [
        map(normalize_name, popular),
        popular,
        imports.keys(),
        imports.values(),
        misnamed.keys(),
        misnamed.values(),
        likely,
    ]
    arguments.out.mkdir(exist_ok=True)
    lines = "\n".join([json.dumps(meta), *(" ".join(column) for column in columns)])
    (arguments.out / "names.txt").write_text(lines, "utf-8", newline="\n")
    cuts = {cut for name in likely for cut in (name, *iter_deletions(name))}
    (arguments.out / "likely.bin").write_bytes(BloomFilter.from_names(cuts, bytes_per_name=1).bits)
    near = set(names_by_chance(likely, cuts, existing, shipped))
    listed_names = {*map(normalize_name, popular), *map(normalize_name, stdlib_module_names())}
    near |= (set(map(normalize_name, imports.keys() - overridden().keys())) & existing) - listed_names
    (arguments.out / "existing.bin").write_bytes(BloomFilter.from_names(near, bytes_per_name=2).bits)
    print(f"{len(popular)} projects, {len(imports)} import names, {len(misnamed)} misnamed, {len(near)} by chance")  # noqa: T201


def read_popular(wheel: Path) -> tuple[list[str], str]:
    """The most downloaded projects, most downloaded first, and the day of the count."""
    with zipfile.ZipFile(wheel) as archive:
        document = json.loads(archive.read("guarddog/analyzer/metadata/resources/top_pypi_packages.json"))
    names = dict.fromkeys(normalize_name(name) for name in document["packages"])
    return list(names), datetime.fromtimestamp(document["downloaded_timestamp"], UTC).date().isoformat()


def read_database(wheel: Path) -> tuple[dict[str, list[str]], str]:
    """Every project's top-level import names, and the day they were gathered."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        member = archive.getinfo("pigar/.db.sqlite3")
        database = sqlite3.connect(archive.extract(member, folder))
        shipped: dict[str, list[str]] = {name: [] for (name,) in database.execute("SELECT name FROM distributions")}
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
    named = {normalize_name(project): project for project in popular}
    standard = stdlib_module_names()
    found: dict[str, str] = {}
    for module, projects in owners.items():
        if module in standard or module.startswith("_"):
            continue
        if normalize_name(module) in named:
            if module != module.lower() and named[normalize_name(module)] in projects:
                found[module] = named[normalize_name(module)]
            continue
        if shippers[module] > BY_CHANCE and len(projects) * 5 < shippers[module]:
            continue
        found[module] = next(
            (name for name in projects if normalize_name(name).endswith(normalize_name(module))), projects[0]
        )
    return overridden() | {module: project for module, project in found.items() if module not in overridden()}


def overridden() -> dict[str, str]:
    lines = (line for line in OVERRIDES.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {module: project for module, _, project in (line.partition(" ") for line in lines)}


def misnamed_projects(popular: list[str], imports: dict[str, str], shipped: dict[str, list[str]]) -> dict[str, str]:
    """Popular projects that bring a module of another name, where hardly anybody's module has theirs."""
    shippers = Counter(module for names in shipped.values() for module in {normalize_name(name) for name in names})
    taken = {normalize_name(module) for project in popular for module in shipped.get(project, [])}
    brought: dict[str, str] = {}
    for module, project in imports.items():
        if "." not in module and not module.startswith("_"):
            brought.setdefault(normalize_name(project), module)
    few = {normalize_name(name): 3 if rank < UNMISTAKABLE else 0 for rank, name in enumerate(popular)}
    return {
        name: brought[name] for name in few if name in brought and name not in taken and shippers[name] <= few[name]
    }


def likely_names(popular: list[str], imports: dict[str, str]) -> list[str]:
    """What people mean to write, normalised: Python's own modules, then projects and their modules by popularity."""
    brought: dict[str, list[str]] = defaultdict(list)
    for module, project in imports.items():
        brought[project].append(normalize_name(module))
    names = [normalize_name(name) for name in sorted(stdlib_module_names())]
    for project in popular:
        names += [normalize_name(project), *brought[project]]
    return list(dict.fromkeys(names))


def names_by_chance(
    likely: list[str], cuts: set[str], existing: set[str], shipped: dict[str, list[str]]
) -> Iterator[str]:
    """Existing names that are like a likely one by chance, and no misspellings of it.

    Most that could be either were registered to be installed by a slip; not so a word that several projects chose."""
    likenesses = TypoIndex.from_names(likely, cuts, frozenset())
    shippers = Counter(module for names in shipped.values() for module in set(names))
    chosen: Counter[str] = Counter()
    for module, count in shippers.items():
        chosen[normalize_name(module)] += count
    for name in existing | chosen.keys():
        meant = likenesses.correct_typo(name)
        is_word = chosen[name] >= A_WORD
        if meant and name != meant and (is_word or not is_unmistakable(name, meant, likenesses.ranks[meant])):
            yield name
    standard = len(stdlib_module_names())
    for module, count in shippers.items():
        rank = likenesses.ranks.get(normalize_name(module))
        if (
            module != module.lower()
            and rank is not None
            and (rank >= UNMISTAKABLE or (rank >= standard and count >= A_WORD))
        ):
            yield module


def is_unmistakable(name: str, meant: str, rank: int) -> bool:
    """Whether a name means another although a project bears it: separators or one slip away from what all know."""
    if rank >= UNMISTAKABLE:
        return False
    return (
        len(meant) >= 6
        if name.replace("-", "") == meant.replace("-", "")
        else len(meant) >= 4 and is_plausible_typo(name, meant)
    )


if __name__ == "__main__":
    main()
