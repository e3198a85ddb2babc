"""What is known of the names of packages: which project an import name belongs to, and which names look wrong.

From the lists that tools/make_names.py gathers and from what is installed here; nothing is imported, asked for
on a network, or looked up in the working directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from phichat.code_report import PackageStatus
from phichat.codecheck.installed_packages import find_distribution, find_module_distribution
from phichat.codecheck.stdlib import explain_unavailable, is_stdlib, stdlib_module_names
from phichat.codecheck.typos import BloomFilter, TypoIndex, normalize_name, to_latin

_DATA = Path(__file__).with_name("data")

_HALLUCINATED = {
    "huggingface-cli": "huggingface_hub",
    "hugging-face": "huggingface_hub",
    "pytorch": "torch",
    "pytorch-vision": "torchvision",
    "opencv": "opencv-python",
    "opencv2": "opencv-python",
    "python-opencv": "opencv-python",
    "beautifulsoup": "beautifulsoup4",
    "beautiful-soup": "beautifulsoup4",
    "beautifulsoup3": "beautifulsoup4",
    "scikit": "scikit-learn",
    "tensorflow-gpu": "tensorflow",
    "pyqt": "PyQt5",
    "google-generative-ai": "google-generativeai",
    "openai-python": "openai",
    "llama-cpp": "llama-cpp-python",
    "request": "requests",
    "python-requests": "requests",
}
"""Names that models write in install commands for what is called otherwise, most of them taken by something else."""

_LATEST_VERSION = (3, 14)

_NAMESAKE_POPULARITY_RATIO = 5
"""An import name is no name to install once its project is so many times as popular as the namesake."""

_MODULE_BY_WRONG_NAME = {
    "beautifulsoup": "bs4",
    "huggingface": "huggingface_hub",
    "huggingface-cli": "huggingface_hub",
    "opencv": "cv2",
    "opencv2": "cv2",
    "pycrypto": "Crypto",
    "pytorch": "torch",
    "scikitlearn": "sklearn",
    "tensorflow-gpu": "tensorflow",
}
"""Names of projects, clipped or long gone, that models import although the module is another."""

_STDLIB_BACKPORTS = {
    "argparse": "",
    "cgi": "legacy-cgi",
    "curses": "windows-curses",
    "dataclasses": "",
    "distutils": "setuptools",
    "readline": "gnureadline",
    "tomllib": "tomli",
    "zoneinfo": "tzdata",
}
"""What a standard module's name in an install command may have been meant to bring."""

_NAMESPACE_PACKAGES = frozenset(
    {"azure", "backports", "google", "jaraco", "opentelemetry", "ruamel", "sphinxcontrib", "zope"}
)
"""Top-level names that many projects share, each bringing a part: `google.cloud.storage`, `azure.identity`."""

_NAMESPACE_PARTS = {
    "google.auth": "google-auth",
    "google.cloud": "google-cloud-core",
    "google.oauth2": "google-auth",
    "google.protobuf": "protobuf",
    "google.colab": "",
    "google.adk": "google-adk",
    "google.genai": "google-genai",
    "google.generativeai": "google-generativeai",
    "google.api_core": "google-api-core",
    "azure.ai.ml": "azure-ai-ml",
    "opentelemetry.trace": "opentelemetry-api",
    "opentelemetry.metrics": "opentelemetry-api",
}


@dataclass(frozen=True, slots=True)
class PackageClassification:
    """distribution: what is installed to have it, "" when not known. remark: a clause for people, "" for none."""

    distribution: str
    status: PackageStatus
    warning: str = ""


@dataclass(frozen=True, slots=True)
class _PackageLists:
    gathered_on: date
    projects: Mapping[str, str]
    """By normalised name; the most downloaded first."""
    project_by_import: Mapping[str, str]
    """From import names to the projects they come with, where the two differ; "" for names of people's own files."""
    module_by_misnomer: Mapping[str, str]
    """From names of projects, as they would be imported, to the modules they bring: no module is called so."""
    typo_targets: str
    """Normalised names of modules and projects, parted by spaces, Python's own first, then by popularity."""


def classify_module(module: str) -> PackageClassification:
    """What to install for a module outside the standard library. module: dotted or not, as it is imported."""
    top_level = module.partition(".")[0]
    distribution = _find_distribution(module)
    if installed := find_module_distribution(top_level, distribution):
        return PackageClassification(
            installed if top_level not in _NAMESPACE_PACKAGES else distribution or installed, PackageStatus.INSTALLED
        )
    normalized = normalize_name(top_level)
    if correction := _MODULE_BY_WRONG_NAME.get(normalized) or _load_lists().module_by_misnomer.get(normalized):
        project = _find_distribution(correction)
        return PackageClassification(project, PackageStatus.SUSPICIOUS, f"the module of {project} is {correction}")
    if distribution:
        return PackageClassification(distribution, PackageStatus.KNOWN)
    if top_level in _load_lists().project_by_import:
        return PackageClassification("", PackageStatus.UNKNOWN)
    if not top_level.startswith("_") and not top_level.endswith("_") and (correction := _correct_typo(top_level)):
        spelling = _import_spellings().get(correction, correction.replace("-", "_"))
        if is_stdlib(spelling):
            return PackageClassification("", PackageStatus.SUSPICIOUS, f"very like {spelling} of the standard library")
        return PackageClassification(_find_distribution(spelling), PackageStatus.SUSPICIOUS, f"very like {spelling}")
    return PackageClassification("", PackageStatus.UNKNOWN)


def classify_install(name: str) -> PackageClassification:
    """What a name in an install command stands for. name: without version, extras or markers."""
    lists = _load_lists()
    normalized = normalize_name(name)
    if correction := _HALLUCINATED.get(normalized):
        return PackageClassification(correction, PackageStatus.SUSPICIOUS, f"the distribution is {correction}")
    if stdlib_module := _stdlib_by_normalized().get(normalized):
        replacement = _STDLIB_BACKPORTS.get(stdlib_module, "")
        warning = f"{stdlib_module} is in the standard library" + (
            f", elsewhere {replacement} brings it" if replacement else ""
        )
        return PackageClassification("", PackageStatus.SUSPICIOUS, warning)
    if is_stdlib(name) and (warning := explain_unavailable(name, _LATEST_VERSION)):
        return PackageClassification("", PackageStatus.SUSPICIOUS, warning)
    if installed := find_distribution(normalized):
        return PackageClassification(installed, PackageStatus.INSTALLED)
    if project_of_name := _project_of_import(name):
        warning = f"{name} is an import name, the distribution is {project_of_name}"
        return PackageClassification(project_of_name, PackageStatus.SUSPICIOUS, warning)
    if project := lists.projects.get(normalized):
        return PackageClassification(project, PackageStatus.KNOWN)
    if correction := _correct_typo(name):
        if stdlib_module := _stdlib_by_normalized().get(correction):
            return PackageClassification(
                "", PackageStatus.SUSPICIOUS, f"very like {stdlib_module} of the standard library"
            )
        project = lists.projects.get(correction) or lists.project_by_import.get(
            _import_spellings().get(correction, ""), ""
        )
        return PackageClassification(project, PackageStatus.SUSPICIOUS, f"very like {project or correction}")
    return PackageClassification("", PackageStatus.UNKNOWN)


def package_lists_date() -> date:
    """The day that the older of the shipped lists was gathered."""
    return _load_lists().gathered_on


@cache
def _load_lists() -> _PackageLists:
    lines = (_DATA / "names.txt").read_text("utf-8").split("\n")
    meta, normalized_names, project_names, modules, owners, misnomers, real_modules, typo_targets = lines
    return _PackageLists(
        date.fromisoformat(json.loads(meta)["date"]),
        dict(zip(normalized_names.split(" "), project_names.split(" "), strict=True)),
        dict(zip(modules.split(" "), owners.split(" "), strict=True)),
        dict(zip(misnomers.split(" "), real_modules.split(" "), strict=True)),
        typo_targets,
    )


@cache
def _load_typo_index() -> TypoIndex:
    likely, existing = (BloomFilter((_DATA / name).read_bytes()) for name in ("likely.bin", "existing.bin"))
    return TypoIndex.from_names(_load_lists().typo_targets.split(" "), likely, existing)


@cache
def _import_spellings() -> dict[str, str]:
    """From normalised import names and standard ones to how they are spelt."""
    return {
        normalize_name(name): name
        for name in (*reversed(list(_load_lists().project_by_import)), *stdlib_module_names())
    }


def _find_distribution(module: str) -> str:
    """The popular project that brings a module, "" when none is known to."""
    lists = _load_lists()
    parts = module.split(".")
    if parts[0] in _NAMESPACE_PACKAGES:
        for length in range(len(parts), 1, -1):
            dotted = re.sub(r"_v\d\w*$", "", ".".join(parts[:length]))
            if dotted in _NAMESPACE_PARTS:
                return _NAMESPACE_PARTS[dotted]
            normalized = normalize_name(dotted)
            unseparated = _load_typo_index().unseparated.get(normalized.replace("-", ""), "")
            if project := lists.projects.get(normalized) or lists.projects.get(unseparated):
                return project
    if parts[0] in lists.project_by_import:
        return lists.project_by_import[parts[0]]
    return lists.projects.get(normalize_name(parts[0]), "") if parts[0] == parts[0].lower() else ""


def _project_of_import(name: str) -> str:
    """The project that a name in an install command is only the import name of, "" when it is a project's own."""
    lists = _load_lists()
    normalized = normalize_name(name)
    project = lists.project_by_import.get(name) or lists.project_by_import.get(normalized.replace("-", "_")) or ""
    if not project or normalize_name(project) == normalized:
        return ""
    if normalized not in lists.projects:
        return "" if _load_typo_index().is_known(normalized) else project
    by_downloads = list(lists.projects)
    normalized_project = normalize_name(project)
    outranks = normalized_project in lists.projects and by_downloads.index(
        normalized
    ) > _NAMESAKE_POPULARITY_RATIO * by_downloads.index(normalized_project)
    return project if outranks else ""


def _correct_typo(name: str) -> str:
    """What a name, itself on no list, is a misspelling of, normalised; "" when of nothing."""
    typo_index = _load_typo_index()
    latin_name = to_latin(name)
    correction = typo_index.correct_typo(normalize_name(latin_name))
    return "" if latin_name == name.lower() and typo_index.is_known(name) else correction


@cache
def _stdlib_by_normalized() -> dict[str, str]:
    """By normalised name; the private ones are no one's choice."""
    return {normalize_name(module): module for module in stdlib_module_names()}
