"""`phichat pull`: download a model, resumed to the byte and proven by its hash."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.options import configure, debug_option
from phichat.cli.output import Output
from phichat.cli.transfers import Reporter
from phichat.errors import (
    EngineError,
    HubUnreachable,
    ModelChoiceError,
    ModelDoesNotFit,
    ModelFileError,
    ModelNotInstalled,
    UsageError,
)
from phichat.paths import Paths, expanded

if TYPE_CHECKING:
    from phichat.config import Config
    from phichat.gguf_header import GgufHeader
    from phichat.models.pull import Pull
    from phichat.models.target import Target


@click.command()
@click.argument("spec")
@click.option("--sha256", default="", metavar="HEX", help="What the file at an https address has to be.")
@click.option("--force", is_flag=True, help="Download what does not fit this machine, too.")
@click.option("-y", "--yes", is_flag=True, help="Answer questions with yes.")
@click.option("--insecure", is_flag=True, help="Allow an http address that is not on this machine.")
@click.option("--offline", is_flag=True, help="Connect nowhere: tell whether it is there.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout.")
@debug_option
def pull(spec: str, sha256: str, force: bool, yes: bool, insecure: bool, offline: bool, as_json: bool) -> int:
    """Download the model that SPEC names, or go on with it: what came before is not fetched again.

    SPEC is a registry name, owner/repo (of which Q4_K_M is taken), owner/repo:QUANT, owner/repo/file.gguf, an
    address copied from the hub's pages, or the https address of a GGUF file anywhere.
    """
    from phichat.models.library import Library
    from phichat.models.pull import Pull
    from phichat.models.spec import PathSpec, RegistryName

    paths = Paths.find()
    config = configure(paths)
    diagnostics = Diagnostics()
    report = Reporter(diagnostics, Output() if as_json else None)
    wanted = _wanted(spec)
    library = Library.open(paths)
    if isinstance(wanted, PathSpec):
        return _in_place(wanted.path, diagnostics)
    if isinstance(wanted, RegistryName) and not wanted.quantization and _is_here(library, wanted.name, report):
        return ExitCode.DONE
    from phichat.engine.cancel import Cancel

    try:
        target = _find(wanted, library, paths, _digest(sha256), insecure=insecure, offline=offline)
        with Pull(target, paths, library.proofs, Cancel()) as pulling:
            report.begin(target)
            for step in pulling.prepare():
                report.show(step)
            if not pulling.is_complete:
                try:
                    is_wanted = _agreed(pulling, target, config, paths, diagnostics, is_forced=force or yes)
                except (ModelDoesNotFit, ModelFileError, ModelChoiceError):
                    pulling.abandon()
                    raise
                if not is_wanted:
                    pulling.abandon()
                    return ExitCode.DOES_NOT_FIT
                for progress in pulling.fetch():
                    report.show(progress)
            report.done(pulling)
    except HubUnreachable:
        if not _is_found(library, spec, report):
            raise
    except KeyboardInterrupt:
        diagnostics.notice("Stopped; what came is kept, and the same command goes on from there.")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def _wanted(spec: str) -> Any:
    import os

    from phichat.models.spec import PathSpec, parse

    if expanded(spec).is_file():
        return PathSpec(spec)
    return parse(spec, os.environ.get("HF_ENDPOINT", ""))


def _digest(sha256: str) -> str:
    import re

    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is no sha256", "give 64 hexadecimal digits")
    return sha256.lower()


def _in_place(path: str, diagnostics: Diagnostics) -> ExitCode:

    if not expanded(path).exists():
        raise ModelNotInstalled(f"There is no file {path}", "check the path")
    diagnostics.notice(f"{path} is a file of yours and is used where it is: `phichat link {path}` gives it a name.")
    return ExitCode.DONE


def _is_here(library: Any, name: str, report: Reporter) -> bool:
    """Whether the very file of a registry entry is installed and proven; connects nowhere."""
    from phichat.models.spec import RegistryName
    from phichat.models.target import registry_entry

    entry = registry_entry(RegistryName(name), library.registry)
    for model in library.installed:
        if model.spec == entry and len(model.parts) == 1 and model.path.is_file():
            known = library.proofs.known(model.path)
            is_packaged = entry.package is not None and model.parts[0].sha256 == entry.sha256
            if (known and known.sha256 == entry.sha256) or is_packaged:
                report.already_there(model.path, entry.sha256)
                return True
    return False


def _is_found(library: Any, spec: str, report: Reporter) -> bool:
    """Whether what is meant is installed and proven, as far as can be told without the hub."""
    try:
        model = library.resolve(spec)
    except (ModelNotInstalled, UsageError):
        return False
    proofs = [library.proofs.known(part.path) for part in model.parts if part.path.is_file()]
    if len(proofs) != len(model.parts) or not all(proofs):
        return False
    report.already_there(model.path, proofs[0].sha256)
    return True


def _find(wanted: Any, library: Any, paths: Paths, sha256: str, *, insecure: bool, offline: bool) -> Target:
    from phichat.models.hub import Hub
    from phichat.models.spec import UrlSpec
    from phichat.models.target import find, find_url

    hub = Hub(is_offline=offline)
    if isinstance(wanted, UrlSpec):
        return find_url(wanted, hub, paths, sha256=sha256, is_insecure=insecure)
    if sha256:
        raise UsageError("--sha256 is for https addresses", "leave it out: the hub names the sha256 of its files")
    return find(wanted, library.registry, hub, paths)


def _agreed(
    pulling: Pull, target: Target, config: Config, paths: Paths, diagnostics: Diagnostics, *, is_forced: bool
) -> bool:
    """Tell what is about to come; whether it shall, given that it fits or that the user wants it all the same.

    Raises StorageError, ModelFileError, ModelDoesNotFit.
    """
    from phichat.cli.tables import size
    from phichat.gguf_header import check_usable

    pulling.require_space()
    header: GgufHeader | None = None
    try:
        header = pulling.header()
        check_usable(header, pulling.path)
    except ModelFileError as why:
        # A file that is promised with its hash may be for another program, or for a newer one of ours.
        if not target.is_promised:
            raise
        diagnostics.notice(f"{why.message}; it will not run here as it is.")
    about = [size(target.size), *([header.quantization, header.architecture] if header else [])]
    about += [f"licence {target.licence}"] if target.licence else ["no licence stated"]
    about += ["gated"] if target.is_gated else []
    diagnostics.notice(f"{target.name}: {', '.join(part for part in about if part)}.")
    if pulling.is_resumed:
        diagnostics.notice(
            f"{size(target.size - pulling.missing)} are here already, {size(pulling.missing)} are to come."
        )
    if header is None:
        return True
    try:
        return _fits(header, target, config, paths, diagnostics, is_forced=is_forced)
    except EngineError as why:
        diagnostics.notice(f"Whether it fits could not be found out ({why.message}).")
        return True


def _fits(
    header: GgufHeader, target: Target, config: Config, paths: Paths, diagnostics: Diagnostics, *, is_forced: bool
) -> bool:
    from phichat.engine.cancel import Cancel
    from phichat.engine.offload import require_fit
    from phichat.wiring import fit_header

    fitted = fit_header(target.name, header, config, paths, Cancel())
    assert fitted is not None, "nothing cancels it"
    try:
        require_fit(fitted.plan, target.name, fitted.smaller)
    except ModelDoesNotFit as why:
        if is_forced:
            diagnostics.notice(f"{why.message}; it is downloaded all the same.")
            return True
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise ModelDoesNotFit(why.message, f"{why.next_step}, or download it all the same with --force") from why
        diagnostics.notice(f"{why.message}; {why.next_step}.")
        return click.confirm("Download it all the same?", default=False, err=True)
    rate = fitted.speed.tokens_per_second
    speed = f", at {_speed_class(rate)} (about {rate:.0f} tokens/s)" if rate else ""
    diagnostics.notice(f"It fits this machine with a context of {fitted.plan.n_ctx:,} tokens{speed}.")
    return True


def _speed_class(tokens_per_second: float) -> str:
    if tokens_per_second >= 30:
        return "more than reading speed"
    return "reading speed" if tokens_per_second >= 8 else "less than reading speed"
