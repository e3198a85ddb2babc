"""Answers as models write them, labelled in place, for the code check: read them, or write them out as plain files.

A corpus file holds many answers. Each begins with a line `=== NAME target=3.12 [flags]`; what follows is the
Markdown of the answer, where a line may end in marks between ⟦ and ⟧, which are taken out before it is checked:

    B:python  B!:python   a code block begins here; ! it has a syntax error; B?: may be left out; B~: either syntax
    p:cv2=opencv-python   a module outside the standard library (=distribution, several with |); p?: either outcome
    s:reqeusts            the same, and suspicious; s?: not scored whether suspicious
    a:math.nope           missing from the standard library of every target; a?: found or not, both are right
    v:math.cbrt>=3.11     missing before 3.11; v:ssl.wrap_socket<3.12 removed in 3.12; v?: either outcome
    m:tomllib>=3.11       a module that only some versions have: a version remark, never "install it"; m?: either
    i:flask  i!:reqeusts  a distribution that is installed; ! suspicious; i~: either status; i?: either outcome

Blocks of fences with an ordinary label (```python, ```bash, ...) need no B mark unless the answer has the flag
`manual`. Flags: `crlf`, `bom`, `noeol`, `manual`, `other?=html,xml` (languages that are not scored).

usage: corpus.py FOLDER_OF_CORPUS_FILES FOLDER_TO_WRITE (NAME.md for each answer and labels.jsonl)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ALIASES = {
    "py": "python", "python3": "python", "pycon": "python", "ipython": "python", "ipython3": "python",
    "sh": "bash", "shell": "bash", "console": "bash", "zsh": "bash", "shell-session": "bash", "terminal": "bash",
    "js": "javascript", "ts": "typescript", "c++": "cpp", "c#": "csharp", "cs": "csharp", "golang": "go",
    "rs": "rust", "rb": "ruby", "ps1": "powershell", "pwsh": "powershell", "bat": "batch", "cmd": "batch",
    "docker": "dockerfile", "make": "makefile", "kt": "kotlin",
}  # fmt: skip
NO_CODE = {
    "text", "txt", "plaintext", "output", "out", "log", "tree", "none", "json", "jsonc", "jsonl", "yaml", "yml", "toml",
    "ini", "cfg", "conf", "csv", "tsv", "xml", "diff", "patch", "markdown", "md", "env", "properties",
}  # fmt: skip
OPEN = re.compile(r"^[ >]*(?:[-*+]\s+|\d+[.)]\s+)?(?P<fence>`{3,}|~{3,})[ ]*(?P<info>[^`\n]*)$")
MARK = re.compile(r"[ \t]*⟦([^⟧]*)⟧")
ITEM = re.compile(r"(?P<kind>[Bpsavmi])(?P<mode>[!?~]?):(?P<rest>\S+)")


def canonical(label: str) -> str:
    label = label.strip("{}").lstrip(".").lower()
    return ALIASES.get(label, label)


def _range(rest: str) -> tuple[str, str | None, str | None]:
    """`name>=3.11`, `name<3.12`: the name, the first version with it, the first version without it."""
    if ">=" in rest:
        name, since = rest.split(">=")
        return name, since, None
    if "<" in rest:
        name, until = rest.rsplit("<", 1)
        return name, None, until
    return rest, None, None


def parse_answer(name: str, options: list[str], lines: list[str]) -> tuple[bytes, dict[str, Any]]:
    """One answer: its bytes and its labels."""
    values = dict(option.split("=", 1) for option in options if "=" in option)
    flags = {option for option in options if "=" not in option}
    label: dict[str, Any] = {"name": name, "target": values["target"], "blocks": [], "installs": []}
    others: list[str] = []
    optional_others = [one for one in values.get("other?", "").split(",") if one]
    plain: list[str] = []
    block: dict[str, Any] | None = None
    fence = ""
    info = ""
    fresh = False
    for number, line in enumerate(lines, 1):
        items = [match for marks in MARK.findall(line) for match in ITEM.finditer(marks)]
        text = MARK.sub("", line)
        plain.append(text)
        begins = next((item for item in items if item["kind"] == "B"), None)
        if fence and not begins:
            bare = text.strip(" >")
            if bare and set(bare) == {fence[0]} and len(bare) >= len(fence):
                fence, block = "", None
                continue
        elif not fence and (match := OPEN.match(text)):
            fence, info, fresh = match["fence"], match["info"], True
            continue
        language, mode = ("", "")
        if begins:
            language, mode = begins["rest"], begins["mode"]
        elif fence and fresh and "manual" not in flags and info.split():
            language = canonical(re.split(r"[\s,{:]", info.strip().lstrip("{"))[0])
            language = "" if language in NO_CODE else language
        fresh = False
        if language:
            block = {
                "start_line": number, "language": language, "python": language == "python",
                "syntax_ok": None if mode == "~" else mode != "!", "optional": mode == "?",
                "non_stdlib": [], "bad_apis": [], "modules": [],
            }  # fmt: skip
            label["blocks"].append(block)
            if language != "python":
                (optional_others if mode == "?" else others).extend(language.split("|")[:1])
        for item in items:
            kind, mode, rest = item["kind"], item["mode"], item["rest"]
            if kind == "B":
                continue
            if kind == "i":
                suspicious = {"!": True, "~": None}.get(mode, False)
                label["installs"].append({"name": rest, "suspicious": suspicious, "optional": mode == "?"})
                continue
            assert block is not None, f"{name}:{number}: {rest} stands in no block"
            where = {"line": number - block["start_line"] + 1, "optional": mode == "?"}
            if kind in "ps":
                module, _, distribution = rest.partition("=")
                suspicious = None if kind == "s" and mode == "?" else kind == "s"
                block["non_stdlib"].append(
                    {"module": module, "distribution": distribution.split("|") if distribution else [module]}
                    | where | {"suspicious": suspicious, "optional": kind == "p" and mode == "?"}
                )  # fmt: skip
            else:
                names, since, until = _range(rest)
                where |= {"since": since, "until": until}
                if kind == "m":
                    block["modules"].append({"module": names} | where)
                else:
                    block["bad_apis"].append({"names": names.split("|")} | where)
    label["other_languages"] = sorted(set(others) - set(optional_others))
    label["optional_languages"] = sorted(set(optional_others) | set(others) & set(optional_others))
    while plain and not plain[-1]:
        plain.pop()
    body = "\n".join(plain) + ("" if "noeol" in flags else "\n")
    if "crlf" in flags:
        body = body.replace("\n", "\r\n")
    return ("\ufeff" if "bom" in flags else "").encode() + body.encode(), label


def parse_file(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    answers = []
    head: list[str] = []
    lines: list[str] = []
    for line in [*path.read_text(encoding="utf-8").split("\n"), "=== end"]:
        if line.startswith("=== "):
            if head:
                answers.append(parse_answer(head[0], head[1:], lines))
            head, lines = line[4:].split(), []
        else:
            lines.append(line)
    return answers


def load(folder: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """All answers of a folder of corpus files (*.txt), or of a folder that `write` has made."""
    if (folder / "labels.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
        return [((folder / f"{row['name']}.md").read_bytes(), row) for row in rows]
    answers = [answer for path in sorted(folder.glob("*.txt")) for answer in parse_file(path)]
    names = [label["name"] for _, label in answers]
    assert len(names) == len(set(names)), [one for one in names if names.count(one) > 1]
    return answers


def write(answers: list[tuple[bytes, dict[str, Any]]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for body, label in answers:
        (folder / f"{label['name']}.md").write_bytes(body)
    rows = "".join(json.dumps(label, ensure_ascii=False) + "\n" for _, label in answers)
    (folder / "labels.jsonl").write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    write(load(Path(sys.argv[1])), Path(sys.argv[2]))
