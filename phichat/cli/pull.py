"""`phichat pull`: download a model, resumed to the byte and proven by its hash."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.download_progress import DownloadReporter
from phichat.cli.support.options import create_context, debug_option
from phichat.cli.support.output import Output
from phichat.errors import (
    AmbiguousModelError,
    EngineError,
    HubUnreachable,
    ModelDoesNotFit,
    ModelFileError,
    ModelNotInstalled,
    UsageError,
)
from phichat.paths import Paths, expand_user

if TYPE_CHECKING:
    from phichat.gguf.header import GgufHeader
    from phichat.models.download.model_download import ModelDownload
    from phichat.models.download.plan import DownloadPlan
    from phichat.models.local.local_models import LocalModels
    from phichat.models.spec import RegistryName, RepoSpec, UrlSpec
    from phichat.services.app_context import AppContext


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
    from phichat.models.download.model_download import ModelDownload
    from phichat.models.local.local_models import LocalModels
    from phichat.models.spec import PathSpec, RegistryName

    context = create_context()
    paths = context.paths
    diagnostics = Diagnostics()
    reporter = DownloadReporter(diagnostics, Output() if as_json else None)
    parsed_spec = _parse_spec(spec)
    library = LocalModels.from_paths(paths)
    if isinstance(parsed_spec, PathSpec):
        return _report_local_path(parsed_spec.path, diagnostics)
    if (
        isinstance(parsed_spec, RegistryName)
        and not parsed_spec.quantization
        and _is_registry_model_verified(library, parsed_spec.name, reporter)
    ):
        return ExitCode.DONE
    from phichat.cancel import CancelToken

    try:
        target = _plan_download(parsed_spec, library, paths, _parse_sha256(sha256), insecure=insecure, offline=offline)
        with ModelDownload(target, paths, library.hash_cache, CancelToken()) as download:
            reporter.report_start(target)
            for step in download.prepare_files():
                reporter.report_step(step)
            if not download.is_complete:
                try:
                    confirmed = _confirm(download, target, context, diagnostics, force=force or yes)
                except (ModelDoesNotFit, ModelFileError, AmbiguousModelError):
                    download.discard_new()
                    raise
                if not confirmed:
                    download.discard_new()
                    return ExitCode.DOES_NOT_FIT
                for progress in download.fetch_files():
                    reporter.report_step(progress)
            reporter.report_done(download)
    except HubUnreachable:
        if not _is_installed_and_verified(library, spec, reporter):
            raise
    except KeyboardInterrupt:
        diagnostics.print_notice("Stopped; what came is kept, and the same command goes on from there.")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def _parse_spec(spec: str) -> Any:
    import os

    from phichat.models.spec import PathSpec, parse_reference

    if expand_user(spec).is_file():
        return PathSpec(spec)
    return parse_reference(spec, os.environ.get("HF_ENDPOINT", ""))


def _parse_sha256(sha256: str) -> str:
    import re

    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is no sha256", "Give 64 hexadecimal digits")
    return sha256.lower()


def _report_local_path(path: str, diagnostics: Diagnostics) -> ExitCode:

    if not expand_user(path).exists():
        raise ModelNotInstalled(f"There is no file {path}", "Check the path")
    diagnostics.print_notice(
        f"{path} is a file of yours and is used where it is: `phichat link {path}` gives it a name."
    )
    return ExitCode.DONE


def _is_registry_model_verified(library: LocalModels, name: str, reporter: DownloadReporter) -> bool:
    """Whether the very file of a registry entry is installed and proven; connects nowhere."""
    from phichat.models.download.plan import find_registry_entry
    from phichat.models.spec import RegistryName

    entry = find_registry_entry(RegistryName(name), library.registry)
    for model in library.models:
        if model.spec == entry and len(model.parts) == 1 and model.path.is_file():
            verified_hash = library.hash_cache.get(model.path)
            is_packaged = entry.package is not None and model.parts[0].sha256 == entry.sha256
            if (verified_hash and verified_hash.sha256 == entry.sha256) or is_packaged:
                reporter.report_installed(model.path, entry.sha256)
                return True
    return False


def _is_installed_and_verified(library: LocalModels, spec: str, reporter: DownloadReporter) -> bool:
    """Whether what is meant is installed and proven, as far as can be told without the hub."""
    try:
        model = library.resolve_model(spec)
    except (ModelNotInstalled, UsageError):
        return False
    found = (library.hash_cache.get(part.path) for part in model.parts if part.path.is_file())
    hashes = [verified for verified in found if verified is not None]
    if len(hashes) != len(model.parts):
        return False
    reporter.report_installed(model.path, hashes[0].sha256)
    return True


def _plan_download(
    spec: RegistryName | RepoSpec | UrlSpec,
    library: LocalModels,
    paths: Paths,
    sha256: str,
    *,
    insecure: bool,
    offline: bool,
) -> DownloadPlan:
    from phichat.models.download.hub_client import HubClient
    from phichat.models.download.plan import plan_hub_download, plan_url_download
    from phichat.models.spec import UrlSpec

    hub = HubClient(is_offline=offline)
    if isinstance(spec, UrlSpec):
        return plan_url_download(spec, hub, paths, sha256=sha256, allow_http=insecure)
    if sha256:
        raise UsageError("--sha256 is for https addresses", "Leave it out: the hub names the sha256 of its files")
    return plan_hub_download(spec, library.registry, hub, paths)


def _confirm(
    download: ModelDownload,
    target: DownloadPlan,
    context: AppContext,
    diagnostics: Diagnostics,
    *,
    force: bool,
) -> bool:
    """Tell what is about to come; whether it shall, given that it fits or that the user wants it all the same.

    Raises StorageError, ModelFileError, ModelDoesNotFit.
    """
    from phichat.cli.support.tables import format_size
    from phichat.gguf.header import check_usable

    download.check_disk_space()
    header: GgufHeader | None = None
    try:
        header = download.fetch_header()
        check_usable(header, download.path)
    except ModelFileError as error:
        # A file that is promised with its hash may be for another program, or for a newer one of ours.
        if not target.has_expected_hashes:
            raise
        diagnostics.print_notice(f"{error.message}; it will not run here as it is.")
    details = [format_size(target.size), *([header.quantization, header.architecture] if header else [])]
    details += [f"licence {target.licence}"] if target.licence else ["no licence stated"]
    details += ["gated"] if target.is_gated else []
    diagnostics.print_notice(f"{target.name}: {', '.join(part for part in details if part)}.")
    if download.is_resumed:
        diagnostics.print_notice(
            f"{format_size(target.size - download.missing_bytes)} are here already, {format_size(download.missing_bytes)} are to come."
        )
    if header is None:
        return True
    try:
        return _confirm_fit(header, target, context, diagnostics, force=force)
    except EngineError as error:
        diagnostics.print_notice(f"Whether it fits could not be found out ({error.message}).")
        return True


def _confirm_fit(
    header: GgufHeader, target: DownloadPlan, context: AppContext, diagnostics: Diagnostics, *, force: bool
) -> bool:
    from phichat.cancel import CancelToken
    from phichat.engine.planner.offload_plan import require_fit
    from phichat.services.fit_service import FitService

    report = FitService(context).estimate_from_header(target.name, header, CancelToken())
    assert report is not None, "nothing cancels it"
    try:
        require_fit(report.plan, target.name, report.suggestions)
    except ModelDoesNotFit as error:
        if force:
            diagnostics.print_notice(f"{error.message}; it is downloaded all the same.")
            return True
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise ModelDoesNotFit(
                error.message, f"{error.next_step}, or download it all the same with --force"
            ) from error
        diagnostics.print_notice(f"{error.message}; {error.next_step}.")
        return click.confirm("Download it all the same?", default=False, err=True)
    rate = report.speed.tokens_per_second
    speed = f", at {_describe_speed(rate)} (about {rate:.0f} tokens/s)" if rate else ""
    diagnostics.print_notice(f"It fits this machine with a context of {report.plan.n_ctx:,} tokens{speed}.")
    return True


def _describe_speed(tokens_per_second: float) -> str:
    if tokens_per_second >= 30:
        return "more than reading speed"
    return "reading speed" if tokens_per_second >= 8 else "less than reading speed"
