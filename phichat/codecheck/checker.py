"""Check of an answer or a file: from Markdown or code to a report."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

from phichat.code_report import (
    BadApi,
    CheckedBlock,
    CodeReport,
    ImportedPackage,
    InstallCommand,
    PackageStatus,
    TrainingScope,
)
from phichat.codecheck.apis import find_bad_apis
from phichat.codecheck.blocks import Block, Prose, split_answer
from phichat.codecheck.imports import ImportedModule, find_imports, scan_imports
from phichat.codecheck.install_commands import (
    find_commands_in_comments,
    find_commands_in_prose,
    find_installs,
    iter_commands,
)
from phichat.codecheck.languages import PYTHON, display_name
from phichat.codecheck.local_modules import find_local_modules, is_placeholder
from phichat.codecheck.messages import (
    SYNTAX_NOTE_PREFIX,
    CheckWarning,
    collect_block_warnings,
    collect_install_warnings,
    format_scope_warning,
    sort_by_severity,
)
from phichat.codecheck.normalization import normalize_block, replace_magics
from phichat.codecheck.package_names import classify_install, classify_module
from phichat.codecheck.stdlib import explain_unavailable, is_stdlib
from phichat.codecheck.syntax import ParseResult, parse_code, parse_incomplete

RUNNING_VERSION = (sys.version_info.major, sys.version_info.minor)
_MAX_CLASSIFIED = 1_000
"""Packages of one block. Real code has fewer, and comparing names takes time."""
_SHELL_LANGUAGES = frozenset(("bash", "powershell", "batch", "dockerfile"))


def check_answer(
    text: str, *, target: tuple[int, int] = RUNNING_VERSION, scope: TrainingScope | None = None
) -> CodeReport:
    """Check the Markdown of an answer, complete or cut off anywhere.

    target: the version of Python the code is for. scope: what the model card says the model was trained on.
    The code is only parsed; nothing is read but phichat's own lists and the names of installed packages.
    """
    blocks, prose = split_answer(text)
    return _build_report(blocks, prose, target, scope)


def check_file(code: str, *, target: tuple[int, int] = RUNNING_VERSION) -> CodeReport:
    """Check a Python file, as one block that begins at line 1."""
    return _build_report([Block(PYTHON, 1, code)], [], target, None)


def format_block_warnings(block: CheckedBlock) -> tuple[str, ...]:
    """Return the lines of `CodeReport.warnings` that come from one block, the most severe first."""
    return tuple(warning.text for warning in sort_by_severity(collect_block_warnings(block)))


def collect_warnings(report: CodeReport) -> list[CheckWarning]:
    """Return the report's warnings with their lines in the answer, the most severe first."""
    return sort_by_severity(
        chain(*map(collect_block_warnings, report.blocks), *map(collect_install_warnings, report.installs))
    )


@dataclass(frozen=True, slots=True)
class _BlockResult:
    """A checked block with its shell commands: line within the block, command, whether it is in a comment."""

    block: CheckedBlock
    commands: tuple[tuple[int, str, bool], ...] = ()


def _build_report(
    blocks: Sequence[Block], prose: Sequence[Prose], target: tuple[int, int], scope: TrainingScope | None
) -> CodeReport:
    local_names = find_local_modules(blocks, prose, _is_popular)
    results = [_check_block(block, target, local_names) for block in blocks if block.language]
    commands = [
        (result.block.start_line + line - 1, command, in_prose)
        for result in results
        for line, command, in_prose in result.commands
    ]
    commands += [
        (part.start_line + line - 1, command, True)
        for part in prose
        for line, command in find_commands_in_prose(part.text)
    ]
    installs: dict[str, InstallCommand] = {}
    for line, command, in_prose in sorted(commands):
        for name in find_installs(command, in_prose=in_prose):
            if name.lower() not in installs:
                known = len(installs) < _MAX_CLASSIFIED
                status = classify_install(name).status if known else PackageStatus.UNKNOWN
                installs[name.lower()] = InstallCommand(name, status, line)
    report = CodeReport(
        tuple(_add_scope_notes(one.block, scope) for one in results),
        tuple(dict.fromkeys(one.block.language for one in results if not one.block.python)),
        tuple(installs.values()),
    )
    return replace(report, warnings=tuple(warning.text for warning in collect_warnings(report)))


@lru_cache(maxsize=128)
def _check_block(block: Block, target: tuple[int, int], local_names: frozenset[str]) -> _BlockResult:
    """Check one block. Cached, because a growing answer is checked again whenever a block closes."""
    assert block.language
    language, code = block.language, block.code
    if block.is_open:
        code = code[: code.rfind("\n") + 1]
    if language == PYTHON:
        normalized = normalize_block(code, is_session=block.is_session)
        language, code = ("bash" if normalized.is_shell else PYTHON), normalized.code
    if language != PYTHON:
        shell_commands = iter_commands(code) if language in _SHELL_LANGUAGES else ()
        commands = tuple((line, command, False) for line, command in shell_commands)
        return _BlockResult(CheckedBlock(language, block.start_line, python=False), commands)
    parse = parse_incomplete if block.is_open else parse_code
    parsed = parse(code, target)
    commands = tuple((line, command, True) for line, command in find_commands_in_comments(code))
    if not parsed.is_valid:
        cleaned = replace_magics(code)
        if cleaned.commands:
            reparsed = parse(cleaned.code, target)
            commands += tuple((line, command, False) for line, command in cleaned.commands)
            if reparsed.is_valid or parsed.tree is None:
                parsed, code = reparsed, cleaned.code
    return _BlockResult(_check_parsed(block.start_line, code, parsed, target, local_names), commands)


def _check_parsed(
    start_line: int, code: str, parsed: ParseResult, target: tuple[int, int], local_names: frozenset[str]
) -> CheckedBlock:
    imported = scan_imports(code) if parsed.tree is None else find_imports(parsed.tree, code)
    imported = [one for one in imported if one.module.partition(".")[0] not in local_names]
    notes = [note for one in imported if (note := _explain_version(one, target))]
    if parsed.message:
        notes.append(f"{SYNTAX_NOTE_PREFIX}{max(parsed.line, 1)}: {parsed.message}")
    return CheckedBlock(
        PYTHON,
        start_line,
        python=True,
        syntax_ok=parsed.is_valid,
        non_stdlib=_classify_packages(imported),
        bad_apis=_find_bad_apis(parsed.tree, target, local_names),
        notes=tuple(dict.fromkeys(notes)),
    )


def _classify_packages(imported: Sequence[ImportedModule]) -> tuple[ImportedPackage, ...]:
    packages: dict[str, ImportedPackage] = {}
    for one in imported:
        module = one.module.partition(".")[0]
        if module in packages or is_stdlib(module) or is_placeholder(module):
            continue
        if len(packages) < _MAX_CLASSIFIED:
            classification = classify_module(".".join((one.module, *one.names[:1])))
            packages[module] = ImportedPackage(module, classification.distribution, classification.status, one.line)
        else:
            packages[module] = ImportedPackage(module, "", PackageStatus.UNKNOWN, one.line)
    return tuple(packages.values())


def _explain_version(imported: ImportedModule, target: tuple[int, int]) -> str:
    """Return why that version cannot import a module, "" when it can or the code is prepared for it."""
    if imported.is_guarded or not is_stdlib(imported.module):
        return ""
    explanations = (explain_unavailable(f"{imported.module}.{name}", target) for name in (*imported.names, ""))
    return next(filter(None, explanations), "")


def _find_bad_apis(tree: ast.Module | None, target: tuple[int, int], local_names: frozenset[str]) -> tuple[BadApi, ...]:
    if tree is None:
        return ()
    try:
        bad_apis = find_bad_apis(tree, target)
    except RecursionError:
        return ()
    return tuple(bad for bad in bad_apis if bad.name.partition(".")[0] not in local_names)


def _add_scope_notes(block: CheckedBlock, scope: TrainingScope | None) -> CheckedBlock:
    """Return the block with a note on the language or modules that the model card does not name."""
    if scope is None:
        return block
    if block.python:
        subject = ", ".join(package.module for package in block.non_stdlib)
    else:
        subject = "" if block.language in scope.languages else display_name(block.language)
    if not subject:
        return block
    note = format_scope_warning(subject, ", ".join(map(display_name, scope.languages)))
    return replace(block, notes=(*block.notes, note))


def _is_popular(module: str) -> bool:
    """Return True if `NAME.py` in a text means a project such as discord.py, not a file."""
    classification = classify_module(module)
    same_name = classification.distribution.lower().removesuffix(".py").replace("-", "_") == module.lower()
    return same_name and classification.status in (PackageStatus.KNOWN, PackageStatus.INSTALLED)
