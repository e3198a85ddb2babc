"""Precision and recall of the code check on a corpus of labelled answers, with every mismatch.

usage: score.py CORPUS [--cli phichat] [--quiet] [--only NAME] [--seed N] [--speed] [--code FOLDER] [--names FILE]

CORPUS is a folder of corpus files or of answers with labels.jsonl (see corpus.py). Without --cli the check is
imported (`phichat.codecheck.checker.check_text`); with it, `phichat check --json` runs once an answer and target.
--code counts what is flagged in a folder of working Python files; --names, how many of the real but little known
project names of a file (one a line) are called suspicious, imported and installed.
Existence is judged for the target of the answer and, as "versions", for each of 3.10 to 3.13: there only what depends
on the version is to be found, and nothing that is right may be flagged.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from corpus import NO_CODE, canonical, load

TARGETS = ("3.10", "3.11", "3.12", "3.13")
GOALS = {
    "non_stdlib": (0.99, 0.98), "blocks": (0.97, 0.97), "bad_apis": (0.98, 0.95), "versions": (0.98, 0.95),
    "other_languages": (0.98, 0.95), "distributions": (0.90, 0.0), "suspicious modules": (0.95, 0.95),
    "suspicious installs": (0.90, 0.85),
}  # fmt: skip
SPELLINGS = {"docker": "dockerfile", "make": "makefile"}
Check = Callable[[bytes, str], dict[str, Any]]


def number(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)


def imported_check() -> Check:
    from phichat.codecheck.checker import check_answer

    def check(body: bytes, target: str) -> dict[str, Any]:
        text = body.decode("utf-8")
        report: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(check_answer(text, target=number(target)))))
        return report

    return check


def command_check(command: str, folder: Path) -> Check:
    def check(body: bytes, target: str) -> dict[str, Any]:
        path = folder / "answer.md"
        path.write_bytes(body)
        done = subprocess.run([command, "check", "--json", "--python-version", target, str(path)], capture_output=True)
        assert done.returncode in (0, 6), done.stderr.decode(errors="replace")
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return check


class Score:
    """Counts a category, and a line for every mismatch."""

    def __init__(self, *, quiet: bool) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.quiet = quiet
        self.mismatches: list[str] = []

    def add(self, category: str, outcome: str, where: str = "", what: str = "") -> None:
        self.counts.setdefault(category, Counter())[outcome] += 1
        if outcome not in ("tp", "note"):
            word = {"fp": "FALSE ALARM", "fn": "missed"}[outcome]
            self.mismatches.append(f"{category:20} {word:12} {where}: {what}")

    def sets(
        self, category: str, found: set[str], wanted: set[str], either: set[str], place: Callable[[str], str]
    ) -> None:
        for _ in found & wanted:
            self.add(category, "tp")
        for name in sorted(found - wanted - either):
            self.add(category, "fp", place(name), name)
        for name in sorted(wanted - found):
            self.add(category, "fn", place(name), name)

    def show(self) -> None:
        if not self.quiet:
            sys.stdout.write("\n".join(sorted(self.mismatches)) + "\n\n")
        for category, count in self.counts.items():
            tp, fp, fn = count["tp"], count["fp"], count["fn"]
            precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
            goal = GOALS.get(category)
            short = goal and (precision < goal[0] or recall < goal[1])
            goals = f"goal {goal[0]:.2f}/{goal[1]:.2f}{'  SHORT' if short else ''}" if goal else ""
            sys.stdout.write(f"{category:20} P {precision:.3f} R {recall:.3f}  tp {tp} fp {fp} fn {fn}  {goals}\n")


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def exists(item: dict[str, Any], target: str) -> bool:
    """Whether the standard library of that version has it."""
    since, until = item.get("since"), item.get("until")
    if since is None and until is None:
        return False
    return not (since and number(target) < number(since)) and not (until and number(target) >= number(until))


def judge(label: dict[str, Any], report: dict[str, Any], target: str, score: Score, *, versions_only: bool) -> None:
    name = label["name"]
    blocks = label["blocks"]
    for block in report["blocks"]:
        block["language"] = SPELLINGS.get(block["language"], block["language"])
    report["other_languages"] = [SPELLINGS.get(one, one) for one in report["other_languages"]]
    found_at = {block["start_line"]: block for block in report["blocks"]}
    labelled_at = {block["start_line"]: block for block in blocks}

    def place_of(kind: str, key: str) -> Callable[[str], str]:
        def place(what: str) -> str:
            for start, block in found_at.items():
                for item in block[kind]:
                    if item[key] == what:
                        return f"{name}.md:{start + item['line'] - 1} ({target})"
            for start, block in labelled_at.items():
                for item in block[kind]:
                    if what in item.get("names", [item.get(key)]):
                        return f"{name}.md:{start + item['line'] - 1} ({target})"
            return f"{name}.md ({target})"

        return place

    # APIs. A module that the target lacks may be a note or a bad API; names below it are left out.
    missing_modules = [item["module"] for block in blocks for item in block["modules"] if not exists(item, target)]
    wanted: set[str] = set()
    either: set[str] = set()
    messages = {item["name"]: item["message"] for block in report["blocks"] for item in block["bad_apis"]}
    found = {one for one in messages if not any(one == mod or one.startswith(mod + ".") for mod in missing_modules)}
    dated: list[tuple[set[str], dict[str, Any]]] = []
    for block in blocks:
        for item in block["bad_apis"]:
            alternatives = set(item["names"])
            if exists(item, target):
                continue
            if item["since"] or item["until"]:
                dated.append((alternatives & found, item))
            if versions_only and not (item["since"] or item["until"]):
                either |= alternatives
            elif item["optional"]:
                either |= alternatives
                if not versions_only:
                    score.add("either is right", "tp" if alternatives & found else "note")
            elif hit := alternatives & found:
                wanted |= hit
                either |= alternatives
            else:
                wanted.add(item["names"][0])
    said_in_notes = " ".join(note for block in report["blocks"] for note in block["notes"])
    category = "versions" if versions_only else "bad_apis"
    score.sets(category, found, wanted, either - wanted, place_of("bad_apis", "name"))
    for block in blocks:
        for item in block["modules"]:
            word = re.compile(rf"\b{re.escape(item['module'])}\b")
            said = bool(word.search(said_in_notes)) or any(one.split(".")[0] == item["module"] or one == item["module"]
                                                           for one in messages)  # fmt: skip
            where = f"{name}.md:{block['start_line'] + item['line'] - 1} ({target})"
            if versions_only and not exists(item, target) and not item["optional"]:
                score.add("versions", "tp" if said else "fn", where, item["module"] + " (no remark)")
    if not versions_only:
        for hit, item in dated:
            version = (item["since"] or item["until"]).removesuffix(".0")
            for one in hit:
                told = version in messages[one] or (item["until"] == "3" and "Python 2" in messages[one])
                where = place_of("bad_apis", "name")(one)
                score.add("version is named", "tp" if told else "fn", where, f"{one}: {messages[one]!r} ({version})")
    else:
        return

    # Blocks and their syntax. Blocks of data formats may be reported or not, as long as they are not Python.
    for start, block in labelled_at.items():
        other = found_at.get(start)
        where = f"{name}.md:{start} ({target})"
        if other is None:
            if not block["optional"]:
                score.add("blocks", "fn", where, f"no {block['language']} block")
            continue
        languages = block["language"].split("|")
        if block["python"] != other["python"] or not (other["python"] or other["language"] in languages):
            score.add("blocks", "fn", where, f"{block['language']} is reported as {other['language']!r}")
        elif block["python"] and block["syntax_ok"] not in (None, other["syntax_ok"]):
            score.add("blocks", "fn", where, f"syntax_ok is {other['syntax_ok']}, not {block['syntax_ok']}")
        else:
            score.add("blocks", "tp")
    for start, other in found_at.items():
        data = not other["python"] and canonical(other["language"]) in NO_CODE | {""}
        if start not in labelled_at and not data and other["language"] not in label["optional_languages"]:
            score.add("blocks", "fp", f"{name}.md:{start} ({target})", f"a {other['language']!r} block")

    # Modules.
    items = [item for block in blocks for item in block["non_stdlib"]]
    wanted = {item["module"] for item in items if not item["optional"]}
    either = {item["module"] for item in items} - wanted
    reported = [item for block in report["blocks"] for item in block["non_stdlib"]]
    found = {item["module"] for item in reported}
    place = place_of("non_stdlib", "module")
    score.sets("non_stdlib", found, wanted, either, place)
    for item in items:
        for other in reported:
            if other["module"] != item["module"] or item["suspicious"] is not False:
                continue
            right = plain(other["distribution"]) in {plain(one) for one in item["distribution"]}
            told = f"{item['module']} -> {other['distribution']!r}, not {'|'.join(item['distribution'])}"
            score.add("distributions", "tp" if right else "fp", place(item["module"]), told)
            break
    suspicious = {item["module"] for item in reported if item["status"] == "suspicious"}
    open_names = {item["module"] for item in items if item["suspicious"] is None}
    score.sets("suspicious modules", suspicious, {item["module"] for item in items if item["suspicious"]},
               open_names, place)  # fmt: skip

    # Lines, where the block is the same.
    for start, block in labelled_at.items():
        for kind, key in (("non_stdlib", "module"), ("bad_apis", "name")):
            for item in found_at.get(start, {}).get(kind, []):
                same = [one for one in block[kind] if item[key] in one.get("names", [one.get(key)])]
                if same:
                    right = item["line"] in {one["line"] for one in same}
                    where = f"{name}.md:{start + same[0]['line'] - 1} ({target})"
                    score.add("lines", "tp" if right else "fp", where, f"{item[key]} at line {item['line']}")

    # Languages and installs of the whole answer.
    def nowhere(_: str) -> str:
        return f"{name}.md ({target})"

    optional = set(label["optional_languages"])
    wanted = {one for one in label["other_languages"] if "|" not in one}
    score.sets("other_languages", set(report["other_languages"]), wanted, optional, nowhere)
    found = {plain(item["name"]) for item in report["installs"]}
    wanted = {plain(item["name"]) for item in label["installs"] if not item["optional"]}
    either = {plain(item["name"]) for item in label["installs"]} - wanted
    score.sets("installs", found, wanted, either, nowhere)
    found = {plain(item["name"]) for item in report["installs"] if item["status"] == "suspicious"}
    wanted = {plain(item["name"]) for item in label["installs"] if item["suspicious"]}
    either = {plain(item["name"]) for item in label["installs"] if item["suspicious"] is None}
    score.sets("suspicious installs", found, wanted, either, nowhere)

    for warning in report["warnings"]:
        ok = warning.isprintable() and len(warning) <= 200
        score.add("short plain warnings", "tp" if ok else "fp", nowhere(""), repr(warning))


def verdicts(report: dict[str, Any]) -> set[str]:
    """What the report warns of, by name."""
    modules = {f"module {item['module']}" for block in report["blocks"] for item in block["non_stdlib"]}
    apis = {f"api {item['name']}" for block in report["blocks"] for item in block["bad_apis"]}
    installs = {f"install {plain(item['name'])}" for item in report["installs"]}
    suspicious = {f"suspicious {item['module']}" for block in report["blocks"] for item in block["non_stdlib"]
                  if item["status"] == "suspicious"}  # fmt: skip
    return modules | apis | installs | suspicious


def cut_off(answers: list[tuple[bytes, dict[str, Any]]], check: Check, chance: random.Random, score: Score) -> None:
    """Answers that were cut off: no verdict that the whole answer does not have.

    Files of the answer that are named only after the cut cannot be known before it, and are left out.
    """
    cuts = alarms = 0
    for body, label in answers:
        if len(body) < 60:
            continue
        whole = verdicts(check(body, label["target"]))
        for at in sorted(chance.sample(range(20, len(body)), 5)):
            piece = body[:at].decode("utf-8", errors="ignore").encode()
            rest = body[at:].decode("utf-8", errors="ignore")
            new = verdicts(check(piece, label["target"])) - whole
            new = {one for one in new if not re.search(rf"\b{re.escape(one.split()[1])}(\.py|/|\b.*├)", rest)}
            cuts += 1
            if new:
                alarms += 1
                line = piece.count(b"\n") + 1
                last = piece.decode().rpartition("\n")[2][-60:]
                score.mismatches.append(f"{'cut-off':20} FALSE ALARM  {label['name']}.md:{line} ..{last!r}: {new}")
    sys.stdout.write(
        f"cut-off answers: {alarms} of {cuts} with a false alarm ({alarms / max(cuts, 1):.2%}; goal 1 %)\n"
    )


def best(action: Callable[[], object], times: int = 15) -> float:
    spans = []
    for _ in range(times):
        start = perf_counter()
        action()
        spans.append(perf_counter() - start)
    return statistics.median(spans)


def sixty_lines() -> tuple[str, str]:
    code = (Path(__file__).parent / "sixty.txt").read_text(encoding="utf-8")
    return code, f"Here you are:\n\n```python\n{code}```\n\nDone.\n"


def warm(check: Check) -> None:
    """Sixty lines, warm, against parsing alone, both in turns."""
    from markdown_it import MarkdownIt

    code, text = sixty_lines()
    check(text.encode(), "3.12")
    ratios = []
    for _ in range(5):
        base = best(lambda: (ast.parse(code), MarkdownIt("commonmark").parse(text)))
        ratios.append(best(lambda: check(text.encode(), "3.12")) / base)
    lines = code.count("\n")
    sys.stdout.write(f"{lines} lines warm: {statistics.median(ratios):.1f}x ast.parse + Markdown parse (goal 20x)\n")


def cold(command: str, folder: Path) -> None:
    """What `check` takes more than `--version`, in the time of an interpreter that does nothing; all in turns."""
    path = folder / "sixty.md"
    path.write_text(sixty_lines()[1], encoding="utf-8")
    commands = [[sys.executable, "-I", "-c", "pass"], [command, "--version"], [command, "check", str(path)]]
    rounds = [[best(lambda: subprocess.run(one, capture_output=True), 1) for one in commands] for _ in range(9)]  # noqa: B023
    bare, version, whole = (statistics.median(spans) for spans in zip(*rounds, strict=True))
    sys.stdout.write(f"cold: {(whole - version) / bare:.1f}x `python -I -c pass` more than --version (goal 15x)\n")


def hostile_answers(check: Check) -> None:
    """Answers that nobody writes, which may take 5 s each."""
    fence = "```python\n{}\n```\n"
    hostile = {
        "a line of 1 MB": fence.format("x = '" + "a" * 1_000_000 + "'"),
        "a line of 1 MB of names": fence.format("x = " + "a." * 500_000 + "b"),
        "a broken line of 1 MB": fence.format("import (" + "(" * 1_000_000),
        "20,000 imports": fence.format("\n".join(f"import module{n}" for n in range(20_000))),
        "20,000 broken imports": fence.format("\n".join(f"import module{n}" for n in range(20_000)) + "\nprint 'x'"),
        "20,000 attributes": fence.format("import math\n" + "\n".join(f"math.nope{n}" for n in range(20_000))),
        "deep parentheses": fence.format("x = " + "(" * 5_000 + ")" * 5_000),
        "deep unary": fence.format("x = " + "-" * 50_000 + "1"),
        "deep additions": fence.format("x = " + " + ".join(["1"] * 50_000)),
        "deep calls": fence.format("f" + "()" * 20_000),
        "deep blocks": fence.format("\n".join(" " * n + "if x:" for n in range(3_000))),
        "deep quotes": "> " * 5_000 + "```python\nimport os",
        "deep lists": "\n".join("  " * n + "- a" for n in range(2_000)),
        "nested markdown": "".join("`" * (3 + 500 - n) + "markdown\n" for n in range(500)) + "import os\n",
        "10,000 blocks": fence.format("import os") * 10_000,
        "a megabyte of backticks": "`" * 1_000_000,
        "backticks and spaces": "` " * 300_000,
        "many spaces": fence.format(" " * 1_000_000 + "import os"),
        "many backslashes": fence.format("import os\n" + "\\\n" * 100_000),
        "open strings": fence.format('"""' * 100_001),
        "prompts": fence.format(">>> " * 200_000),
        "install words": "```bash\npip install " + "-r " * 300_000 + "\n```\n",
        "many packages": "```bash\npip install " + " ".join(f"name{n}" for n in range(50_000)) + "\n```\n",
        "null bytes": fence.format("import os\x00\nimport re\x1b[31m"),
        "surrogate": "```python\nprint('\ud800')\n```\n",
    }
    for name, answer in hostile.items():
        start = perf_counter()
        try:
            warnings = check(answer.encode("utf-8", "replace"), "3.12")["warnings"]
            said = "" if all(one.isprintable() for one in warnings) else "CONTROL CHARACTERS"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what this looks for
            said = f"FAILED {type(error).__name__}: {str(error)[:80]}"
        span = perf_counter() - start
        sys.stdout.write(f"  {name:26} {span:6.2f} s {said}{'  SLOW' if span > 5 else ''}\n")


def working_code(folder: Path, check: Check) -> None:
    """API flags in code that works: the goal is at most 0.1 in 1000 lines."""
    lines = flags = 0
    target = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in sorted(folder.rglob("*.py")):
        source = path.read_bytes().decode("utf-8", errors="replace")
        lines += source.count("\n")
        report = check(f"{'`' * 12}python\n{source}\n{'`' * 12}\n".encode(), target)
        for block in report["blocks"]:
            flags += len(block["bad_apis"])
            for item in block["bad_apis"]:
                sys.stdout.write(f"  {path}:{item['line']}: {item['name']}: {item['message']}\n")
    sys.stdout.write(f"working code: {flags} flags in {lines} lines, {1000 * flags / max(lines, 1):.3f} in 1000\n")


def little_known(path: Path, check: Check) -> None:
    """Suspicious verdicts on names of real projects: the goal is at most 1 %."""
    names = path.read_text(encoding="utf-8").split()
    modules = {name.replace("-", "_").replace(".", "_") for name in names}
    imports = "\n".join(f"import {module}" for module in sorted(modules) if module.isidentifier())
    text = f"```python\n{imports}\n```\n\n```bash\npip install {' '.join(names)}\n```\n"
    report = check(text.encode(), "3.12")
    found = [item for block in report["blocks"] for item in block["non_stdlib"]]
    for kind, key, items in (("imported", "module", found), ("installed", "name", report["installs"])):
        bad = [item[key] for item in items if item["status"] == "suspicious"]
        share = len(bad) / max(len(items), 1)
        sys.stdout.write(f"little known names {kind}: {len(bad)} of {len(items)} suspicious ({share:.2%}; goal 1 %)\n")
        sys.stdout.write(f"  {' '.join(bad)}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cli")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--code", type=Path)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    answers = [answer for answer in load(options.corpus) if options.only in answer[1]["name"]]
    with tempfile.TemporaryDirectory() as folder:
        check = command_check(options.cli, Path(folder)) if options.cli else imported_check()
        score = Score(quiet=options.quiet)
        for body, label in answers:
            judge(label, check(body, label["target"]), label["target"], score, versions_only=False)
            for target in TARGETS if any(block["python"] for block in label["blocks"]) else ():
                judge(label, check(body, target), target, score, versions_only=True)
        cut_off(answers, check, random.Random(options.seed), score)
        score.show()
        if options.code:
            working_code(options.code, check)
        if options.names:
            little_known(options.names, check)
        if options.speed:
            if options.cli:
                cold(options.cli, Path(folder))
            else:
                warm(check)
            hostile_answers(check)


if __name__ == "__main__":
    main()
