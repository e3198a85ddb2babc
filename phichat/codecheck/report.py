"""The one function from an answer to its report: another oracle can stand behind it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from phichat.code_report import (
    BadApi,
    CheckedBlock,
    CodeReport,
    CodeScope,
    ImportedPackage,
    Install,
    PackageStatus,
)
from phichat.codecheck.apis import find_bad_apis
from phichat.codecheck.blocks import Block, Prose, read_answer
from phichat.codecheck.imports import Imported, imports_of, scan_imports
from phichat.codecheck.installs import commands_in_comments, commands_in_prose, commands_of, installs_in
from phichat.codecheck.languages import PYTHON, shown
from phichat.codecheck.local import is_own, local_modules
from phichat.codecheck.names import judge_install, judge_module
from phichat.codecheck.prepare import prepare, without_magics
from phichat.codecheck.remarks import (
    SYNTAX_BEGINS,
    Remark,
    gravest_first,
    remarks_on_block,
    remarks_on_install,
    scope_remark,
)
from phichat.codecheck.stdlib import is_stdlib, module_remark
from phichat.codecheck.syntax import Parsed, parse, parse_cut_off

RUNNING = (sys.version_info.major, sys.version_info.minor)
_MOST_JUDGED = 1_000
"""Packages of one block; more are no code that somebody wrote, and comparing names takes its time."""
_SHELLS = frozenset(("bash", "powershell", "batch", "dockerfile"))


def check_text(text: str, *, target: tuple[int, int] = RUNNING, scope: CodeScope | None = None) -> CodeReport:
    """Check the Markdown of an answer, whole or cut off anywhere.

    target: the version of Python it is for. scope: what the model was trained on, if its card says so.
    The code is parsed only, and nothing is read but phichat's own lists and what is installed.
    """
    blocks, prose = read_answer(text)
    return _report(blocks, prose, target, scope)


def check_file(code: str, *, target: tuple[int, int] = RUNNING) -> CodeReport:
    """Check a file of Python: one block that begins at line 1."""
    return _report([Block(PYTHON, 1, code)], [], target, None)


def block_warnings(block: CheckedBlock) -> tuple[str, ...]:
    """The lines of `CodeReport.warnings` that come from one block, the gravest first."""
    return tuple(remark.text for remark in gravest_first(remarks_on_block(block)))


def remarks_on(report: CodeReport) -> list[Remark]:
    """The report's warnings with their lines in the answer, the gravest first."""
    found = [remark for block in report.blocks for remark in remarks_on_block(block)]
    return gravest_first([*found, *(remark for install in report.installs for remark in remarks_on_install(install))])


@dataclass(frozen=True, slots=True)
class _Found:
    """commands: of shell, with their lines within the block, and whether they stand in a comment."""

    block: CheckedBlock
    commands: tuple[tuple[int, str, bool], ...] = ()


def _report(
    blocks: Sequence[Block], prose: Sequence[Prose], target: tuple[int, int], scope: CodeScope | None
) -> CodeReport:
    local = local_modules(blocks, prose, _is_popular)
    found = [_check_block(block, target, local) for block in blocks if block.language]
    commands = [
        (one.block.start_line + line - 1, command, in_prose)
        for one in found
        for line, command, in_prose in one.commands
    ]
    commands += [
        (run.start_line + line - 1, command, True) for run in prose for line, command in commands_in_prose(run.text)
    ]
    installs: dict[str, Install] = {}
    for line, command, in_prose in sorted(commands):
        for name in installs_in(command, in_prose=in_prose):
            if name.lower() not in installs:
                judged = len(installs) < _MOST_JUDGED
                status = judge_install(name).status if judged else PackageStatus.UNKNOWN
                installs[name.lower()] = Install(name, status, line)
    report = CodeReport(
        tuple(_with_scope(one.block, scope) for one in found),
        tuple(dict.fromkeys(one.block.language for one in found if not one.block.python)),
        tuple(installs.values()),
    )
    return replace(report, warnings=tuple(remark.text for remark in remarks_on(report)))


@lru_cache(maxsize=128)
def _check_block(block: Block, target: tuple[int, int], local: frozenset[str]) -> _Found:
    """One block. Remembered, because a growing answer is checked again whenever a block closes."""
    assert block.language
    code = _finished_lines(block.code) if block.is_open else block.code
    if block.language in _SHELLS:
        commands = tuple((line, command, False) for line, command in commands_of(code))
        return _Found(CheckedBlock(block.language, block.start_line, python=False), commands)
    if block.language != PYTHON:
        return _Found(CheckedBlock(block.language, block.start_line, python=False))
    prepared = prepare(code, is_session=block.is_session)
    if prepared.is_shell:
        commands = tuple((line, command, False) for line, command in commands_of(prepared.code))
        return _Found(CheckedBlock("bash", block.start_line, python=False), commands)
    parse_it = parse_cut_off if block.is_open else parse
    parsed, bare = parse_it(prepared.code, target), prepared.code
    commands = tuple((line, command, True) for line, command in commands_in_comments(bare))
    if not parsed.ok:
        mended = without_magics(bare)
        if mended.commands:
            again = parse_it(mended.code, target)
            commands += tuple((line, command, False) for line, command in mended.commands)
            if again.ok or parsed.tree is None:
                parsed, bare = again, mended.code
    return _Found(_judge(block.start_line, bare, parsed, target, local), commands)


def _finished_lines(code: str) -> str:
    """Without a last line that has no end yet."""
    return code[: code.rfind("\n") + 1]


def _judge(start_line: int, code: str, parsed: Parsed, target: tuple[int, int], local: frozenset[str]) -> CheckedBlock:
    imported = scan_imports(code) if parsed.tree is None else imports_of(parsed.tree, code)
    imported = [one for one in imported if one.module.partition(".")[0] not in local]
    remarks = [remark for one in imported if (remark := _on_version(one, target))]
    if parsed.remark:
        remarks.append(f"{SYNTAX_BEGINS}{max(parsed.line, 1)}: {parsed.remark}")
    return CheckedBlock(
        PYTHON,
        start_line,
        python=True,
        syntax_ok=parsed.ok,
        non_stdlib=_packages(imported),
        bad_apis=_bad_apis(parsed.tree, target, local),
        notes=tuple(dict.fromkeys(remarks)),
    )


def _packages(imported: Sequence[Imported]) -> tuple[ImportedPackage, ...]:
    found: dict[str, ImportedPackage] = {}
    for one in imported:
        module = one.module.partition(".")[0]
        if module in found or is_stdlib(module) or is_own(module):
            continue
        if len(found) < _MOST_JUDGED:
            judged = judge_module(".".join((one.module, *one.names[:1])))
            found[module] = ImportedPackage(module, judged.distribution, judged.status, one.line)
        else:
            found[module] = ImportedPackage(module, "", PackageStatus.UNKNOWN, one.line)
    return tuple(found.values())


def _on_version(one: Imported, target: tuple[int, int]) -> str:
    """Why a module cannot be imported by that version, "" where it can or the code is prepared for it."""
    if one.guarded or not is_stdlib(one.module):
        return ""
    return next((said for name in (*one.names, "") if (said := module_remark(f"{one.module}.{name}", target))), "")


def _bad_apis(tree: ast.Module | None, target: tuple[int, int], local: frozenset[str]) -> tuple[BadApi, ...]:
    if tree is None:
        return ()
    try:
        found = find_bad_apis(tree, target)
    except RecursionError:
        return ()
    return tuple(bad for bad in found if bad.name.partition(".")[0] not in local)


def _with_scope(block: CheckedBlock, scope: CodeScope | None) -> CheckedBlock:
    """The block with a note on what the model's card does not vouch for."""
    if scope is None:
        return block
    if not block.python:
        notes = [] if block.language in scope.languages else [_beyond(shown(block.language), scope)]
    else:
        modules = ", ".join(package.module for package in block.non_stdlib)
        notes = [_beyond(modules, scope)] if modules else []
    return replace(block, notes=(*block.notes, *notes))


def _beyond(what: str, scope: CodeScope) -> str:
    return scope_remark(what, ", ".join(shown(language) for language in scope.languages))


def _is_popular(module: str) -> bool:
    """Whether `NAME.py` in a text means a project, as in discord.py, and no file."""
    judged = judge_module(module)
    own = judged.distribution.lower().removesuffix(".py").replace("-", "_") == module.lower()
    return own and judged.status in (PackageStatus.KNOWN, PackageStatus.INSTALLED)
