"""`phichat link`, `rm` and `verify`: register, remove and check model files."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_default_context, debug_option, json_option, yes_option
from phichat.cli.support.output import Output
from phichat.errors import UsageError
from phichat.paths import expand_user
from phichat.sanitize import sanitize_line

if TYPE_CHECKING:
    from phichat.cancel import CancelToken
    from phichat.models.local.discovery import ModelFile
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import VerifyResult


@click.command()
@click.argument("path")
@click.option("--name", metavar="N", help="The name (default: that of the file).")
@debug_option
def link(path: str, name: str | None) -> int:
    """Register the GGUF file at PATH under a name, recording its hash so that damage can be detected.

    The file stays where it is. Linking it again records its current content.
    """
    from phichat.gguf.header import check_usable, read_model_header
    from phichat.models.local.discovery import model_at_path
    from phichat.models.local.hash_cache import hash_file
    from phichat.models.local.links import Link, LinkStore
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.locations import ModelSource

    diagnostics, hashes = Diagnostics(), []
    models = LocalModels.from_paths(create_default_context().paths)
    model = model_at_path(expand_user(path).absolute())
    check_usable(read_model_header(model.path), model.path)
    link_name = name or model.name
    if not re.fullmatch(r"\w[\w.+ -]*", link_name):
        raise UsageError(f"{link_name!r} is not a valid model name", "Use letters, digits, dots and dashes with --name")
    conflicts = [other.matches_name(link_name) for other in models.models if other.source is not ModelSource.LINK]
    if any((*conflicts, *(spec.matches_name(link_name) for spec in models.registry.values()))):
        raise UsageError(f"Another model is named {link_name}", "Choose another name with --name")
    with cancel_on_sigint() as cancel:
        for part in model.parts:
            for fraction, digest in hash_file(part.path, cancel):
                diagnostics.show_progress(f"reading {part.path.name} {fraction:.0%}")
                hashes += [digest] if digest else []
    diagnostics.clear_progress()
    if len(hashes) < len(model.parts):
        return ExitCode.INTERRUPTED
    for part, digest in zip(model.parts, hashes, strict=True):
        models.hash_cache.store(part.path, digest)
    LinkStore(models.locations.links_file).add_link(Link(link_name, model.path, tuple(hashes)))
    diagnostics.print_notice(f"Linked {link_name} to {model.path}, SHA-256 {hashes[0]}.")
    return ExitCode.DONE


@click.command()
@click.argument("model")
@yes_option
@debug_option
def rm(model: str, yes: bool) -> int:
    """Remove MODEL from the hub's cache or from phichat's downloads, or remove a link.

    Deletes only files that no other model needs, never a linked file or a file of another program.
    """
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.locations import ModelSource
    from phichat.models.local.removal import check_removable, remove_model
    from phichat.units import format_size

    models = LocalModels.from_paths(create_default_context().paths)
    model_file = models.resolve_model(model)
    check_removable(model_file)
    is_link = model_file.source is ModelSource.LINK
    if not yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise UsageError("There is no terminal to ask for confirmation", f"Use -y to remove {model_file.name}")
        action = "Remove the link" if is_link else f"Remove {format_size(model_file.size)}"
        if not click.confirm(sanitize_line(f"{action}: {model_file.name}, {model_file.path}?"), err=True):
            return ExitCode.ERROR
    freed_bytes = remove_model(model_file, models)
    result = f"Link {model_file.name} removed; the file is untouched" if is_link else f"{model_file.name} removed"
    Diagnostics().print_notice(f"{result}, {format_size(freed_bytes)} freed ({freed_bytes:,} bytes).")
    return ExitCode.DONE


@click.command()
@click.argument("model", required=False)
@click.option("--repair", "repair", is_flag=True, help="Download damaged parts from the hub again.")
@json_option
@debug_option
def verify(model: str | None, repair: bool, as_json: bool) -> int:
    """Verify MODEL (or all models) against the recorded SHA-256.

    If none is known, the current one is recorded. Makes no connection without --repair. Exits with 1 if a file does
    not match.
    """
    from phichat.models.download.progress import VerifyProgress
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import suggest_fix
    from phichat.services.model_downloads import ModelDownloads

    context = create_default_context()
    models = LocalModels.from_paths(context.paths)
    diagnostics, output = Diagnostics(), Output()
    documents = []
    with cancel_on_sigint() as cancel:
        for file in [models.resolve_model(model)] if model else models.models:
            result = _verify_model(file, models, cancel, diagnostics)
            if result is not None and not result.ok and repair:
                diagnostics.print_notice(f"{file.name}: {result.reason}.")
                for step in ModelDownloads(context).repair(file, models, cancel):
                    action = "verifying" if isinstance(step, VerifyProgress) else "downloading"
                    diagnostics.show_progress(f"{action} {file.name} {step.fraction:.0%}")
                diagnostics.clear_progress()
                result = _verify_model(file, models, cancel, diagnostics)
            if result is None:
                return ExitCode.INTERRUPTED
            documents.append({"name": file.name, "path": str(file.path), "ok": result.ok, "reason": result.reason})
            if not as_json:
                state = "ok" if result.ok else "NOT OK"
                output.write_text(f"{state:<8}{sanitize_line(file.name)}  {result.reason}".rstrip())
            if not result.ok:
                diagnostics.print_notice(f"{file.name} does not match its SHA-256. {suggest_fix(file)}.")
    if as_json:
        output.write_json(documents)
    return ExitCode.DONE if all(document["ok"] for document in documents) else ExitCode.ERROR


def _verify_model(
    file: ModelFile, models: LocalModels, cancel: CancelToken, diagnostics: Diagnostics
) -> VerifyResult | None:
    from phichat.models.local.verification import VerifyResult, verify_model

    result = None
    for step in verify_model(file, models.hash_cache, cancel):
        if isinstance(step, VerifyResult):
            result = step
        else:
            diagnostics.show_progress(f"verifying {file.name} {step:.0%}")
    diagnostics.clear_progress()
    return result
