"""Classification of package names: the project of an import name, and names that look wrong.

The sources are the lists that tools/make_names.py writes and the names of installed packages. Nothing is imported,
requested from a network, or looked up in the working directory.
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
    "huggingface-cli": "huggingface_hub", "hugging-face": "huggingface_hub", "pytorch": "torch",
    "pytorch-vision": "torchvision", "opencv": "opencv-python", "opencv2": "opencv-python",
    "python-opencv": "opencv-python", "beautifulsoup": "beautifulsoup4", "beautiful-soup": "beautifulsoup4",
    "beautifulsoup3": "beautifulsoup4", "scikit": "scikit-learn", "tensorflow-gpu": "tensorflow", "pyqt": "PyQt5",
    "google-generative-ai": "google-generativeai", "openai-python": "openai", "llama-cpp": "llama-cpp-python",
    "request": "requests", "python-requests": "requests",
}  # fmt: skip
"""Wrong names that models write in install commands; most of them belong to other projects."""

_LATEST_VERSION = (3, 14)

_NAMESAKE_POPULARITY_RATIO = 5
"""An import name is suspicious to install if its project is that many times as popular as the one of that name."""

_MODULE_BY_WRONG_NAME = {
    "beautifulsoup": "bs4", "huggingface": "huggingface_hub", "huggingface-cli": "huggingface_hub", "opencv": "cv2",
    "opencv2": "cv2", "pycrypto": "Crypto", "pytorch": "torch", "scikitlearn": "sklearn",
    "tensorflow-gpu": "tensorflow",
}  # fmt: skip
"""Names of projects, shortened or abandoned, that models import although the module has another name."""

_STDLIB_BACKPORTS = {
    "argparse": "", "cgi": "legacy-cgi", "curses": "windows-curses", "dataclasses": "", "distutils": "setuptools",
    "readline": "gnureadline", "tomllib": "tomli", "zoneinfo": "tzdata",
}  # fmt: skip
"""Distributions that an install command with a standard module's name may mean."""

_NAMESPACE_PACKAGES = frozenset(
    {"azure", "backports", "google", "jaraco", "opentelemetry", "ruamel", "sphinxcontrib", "zope"}
)
"""Top-level names that many projects share: `google.cloud.storage`, `azure.identity`."""

_NAMESPACE_PARTS = {
    "google.auth": "google-auth", "google.cloud": "google-cloud-core", "google.oauth2": "google-auth",
    "google.protobuf": "protobuf", "google.colab": "", "google.adk": "google-adk", "google.genai": "google-genai",
    "google.generativeai": "google-generativeai", "google.api_core": "google-api-core", "azure.ai.ml": "azure-ai-ml",
    "opentelemetry.trace": "opentelemetry-api", "opentelemetry.metrics": "opentelemetry-api",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackageClassification:
    """Status of a name. distribution: to install, "" when not known. warning: a clause for the user, mostly ""."""

    distribution: str
    status: PackageStatus
    warning: str = ""


@dataclass(frozen=True, slots=True)
class _PackageLists:
    gathered_on: date
    projects: Mapping[str, str]
    """From normalised names to names as spelt, the most downloaded first."""
    project_by_import: Mapping[str, str]
    """From import names to their projects, where the two differ; "" for names of people's own files."""
    module_by_misnomer: Mapping[str, str]
    """From names of projects that are no import names to the modules they contain."""
    typo_targets: str
    """Normalised names of modules and projects separated by spaces, the standard library's first, then by rank."""


def classify_module(module: str) -> PackageClassification:
    """Classify a module outside the standard library. module: dotted or not, as it is imported."""
    top_level = module.partition(".")[0]
    distribution = _find_distribution(module)
    if installed := find_module_distribution(top_level, distribution):
        name = distribution or installed if top_level in _NAMESPACE_PACKAGES else installed
        return PackageClassification(name, PackageStatus.INSTALLED)
    normalized = normalize_name(top_level)
    if correction := _MODULE_BY_WRONG_NAME.get(normalized) or _load_lists().module_by_misnomer.get(normalized):
        project = _find_distribution(correction)
        return _suspicious(f"{project}'s module is called {correction}", project)
    if distribution:
        return PackageClassification(distribution, PackageStatus.KNOWN)
    if top_level in _load_lists().project_by_import:
        return PackageClassification("", PackageStatus.UNKNOWN)
    if not top_level.startswith("_") and not top_level.endswith("_") and (correction := _correct_typo(top_level)):
        spelling = _import_spellings().get(correction, correction.replace("-", "_"))
        if is_stdlib(spelling):
            return _suspicious(f"very similar to the standard library's {spelling}")
        return _suspicious(f"very similar to {spelling}", _find_distribution(spelling))
    return PackageClassification("", PackageStatus.UNKNOWN)


def classify_install(name: str) -> PackageClassification:
    """Classify a name in an install command. name: without version, extras or markers."""
    lists = _load_lists()
    normalized = normalize_name(name)
    if correction := _HALLUCINATED.get(normalized):
        return _suspicious(f"the distribution is {correction}", correction)
    if stdlib_module := _stdlib_by_normalized().get(normalized):
        backport = _STDLIB_BACKPORTS.get(stdlib_module, "")
        suffix = f", elsewhere it comes with {backport}" if backport else ""
        return _suspicious(f"{stdlib_module} is in the standard library{suffix}")
    if is_stdlib(name) and (warning := explain_unavailable(name, _LATEST_VERSION)):
        return _suspicious(warning)
    if installed := find_distribution(normalized):
        return PackageClassification(installed, PackageStatus.INSTALLED)
    if project_of_name := _project_of_import(name):
        return _suspicious(f"{name} is an import name, the distribution is {project_of_name}", project_of_name)
    if project := lists.projects.get(normalized):
        return PackageClassification(project, PackageStatus.KNOWN)
    if correction := _correct_typo(name):
        if stdlib_module := _stdlib_by_normalized().get(correction):
            return _suspicious(f"very similar to the standard library's {stdlib_module}")
        spelling = _import_spellings().get(correction, "")
        project = lists.projects.get(correction) or lists.project_by_import.get(spelling, "")
        return _suspicious(f"very similar to {project or correction}", project)
    return PackageClassification("", PackageStatus.UNKNOWN)


def _suspicious(warning: str, distribution: str = "") -> PackageClassification:
    return PackageClassification(distribution, PackageStatus.SUSPICIOUS, warning)


def package_lists_date() -> date:
    """Return the day on which the older of the shipped lists was made."""
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
    """Return the spelling of each import name and standard module by its normalised name."""
    names = (*reversed(list(_load_lists().project_by_import)), *stdlib_module_names())
    return {normalize_name(name): name for name in names}


def _find_distribution(module: str) -> str:
    """Return the popular project that contains a module, "" when none is known."""
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
    """Return the project whose import name stands in an install command, "" when a project has that name itself."""
    lists = _load_lists()
    normalized = normalize_name(name)
    project = lists.project_by_import.get(name) or lists.project_by_import.get(normalized.replace("-", "_")) or ""
    if not project or normalize_name(project) == normalized:
        return ""
    if normalized not in lists.projects:
        return "" if _load_typo_index().is_known(normalized) else project
    if (normalized_project := normalize_name(project)) not in lists.projects:
        return ""
    ranked = list(lists.projects)
    outranks = ranked.index(normalized) > _NAMESAKE_POPULARITY_RATIO * ranked.index(normalized_project)
    return project if outranks else ""


def _correct_typo(name: str) -> str:
    """Return the normalised name that an unlisted name is a misspelling of, "" when there is none."""
    typo_index = _load_typo_index()
    latin_name = to_latin(name)
    if latin_name == name.lower() and typo_index.is_known(name):
        return ""
    return typo_index.correct_typo(normalize_name(latin_name))


@cache
def _stdlib_by_normalized() -> dict[str, str]:
    return {normalize_name(module): module for module in stdlib_module_names()}
