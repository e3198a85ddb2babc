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
from phichat.codecheck.installed import installed_distribution, owner_of_module
from phichat.codecheck.nearness import BloomFilter, Likenesses, normalised, plain
from phichat.codecheck.stdlib import is_stdlib, module_remark, standard_names

_DATA = Path(__file__).with_name("data")

_MADE_UP = {
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

_LATEST = (3, 14)

_MISTAKEN_FOR = 5
"""An import name is no name to install once its project is so many times as popular as the namesake."""

_NO_MODULES = {
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

_STANDARD_ELSEWHERE = {
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

_PARTED = frozenset({"azure", "backports", "google", "jaraco", "opentelemetry", "ruamel", "sphinxcontrib", "zope"})
"""Top-level names that many projects share, each bringing a part: `google.cloud.storage`, `azure.identity`."""

_PARTS = {
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
class JudgedPackage:
    """distribution: what is installed to have it, "" when not known. remark: a clause for people, "" for none."""

    distribution: str
    status: PackageStatus
    remark: str = ""


@dataclass(frozen=True, slots=True)
class _Lists:
    made: date
    projects: Mapping[str, str]
    """By normalised name; the most downloaded first."""
    imports: Mapping[str, str]
    """From import names to the projects they come with, where the two differ; "" for names of people's own files."""
    misnamed: Mapping[str, str]
    """From names of projects, as they would be imported, to the modules they bring: no module is called so."""
    likely: str
    """Normalised names of modules and projects, parted by spaces, Python's own first, then by popularity."""


def judge_module(module: str) -> JudgedPackage:
    """What to install for a module outside the standard library. module: dotted or not, as it is imported."""
    top_level = module.partition(".")[0]
    distribution = _distribution_of(module)
    if owner := owner_of_module(top_level, distribution):
        return JudgedPackage(owner if top_level not in _PARTED else distribution or owner, PackageStatus.INSTALLED)
    known_as = normalised(top_level)
    if meant := _NO_MODULES.get(known_as) or _lists().misnamed.get(known_as):
        project = _distribution_of(meant)
        return JudgedPackage(project, PackageStatus.SUSPICIOUS, f"the module of {project} is {meant}")
    if distribution:
        return JudgedPackage(distribution, PackageStatus.KNOWN)
    if top_level in _lists().imports:
        return JudgedPackage("", PackageStatus.UNKNOWN)
    if not top_level.startswith("_") and not top_level.endswith("_") and (meant := _meant(top_level)):
        spelt = _spellings().get(meant, meant.replace("-", "_"))
        if is_stdlib(spelt):
            return JudgedPackage("", PackageStatus.SUSPICIOUS, f"very like {spelt} of the standard library")
        return JudgedPackage(_distribution_of(spelt), PackageStatus.SUSPICIOUS, f"very like {spelt}")
    return JudgedPackage("", PackageStatus.UNKNOWN)


def judge_install(name: str) -> JudgedPackage:
    """What a name in an install command stands for. name: without version, extras or markers."""
    lists = _lists()
    known_as = normalised(name)
    if meant := _MADE_UP.get(known_as):
        return JudgedPackage(meant, PackageStatus.SUSPICIOUS, f"the distribution is {meant}")
    if standard := _standard_names().get(known_as):
        instead = _STANDARD_ELSEWHERE.get(standard, "")
        remark = f"{standard} is in the standard library" + (f", elsewhere {instead} brings it" if instead else "")
        return JudgedPackage("", PackageStatus.SUSPICIOUS, remark)
    if is_stdlib(name) and (remark := module_remark(name, _LATEST)):
        return JudgedPackage("", PackageStatus.SUSPICIOUS, remark)
    if installed := installed_distribution(known_as):
        return JudgedPackage(installed, PackageStatus.INSTALLED)
    if imported := _imported_as(name):
        remark = f"{name} is an import name, the distribution is {imported}"
        return JudgedPackage(imported, PackageStatus.SUSPICIOUS, remark)
    if project := lists.projects.get(known_as):
        return JudgedPackage(project, PackageStatus.KNOWN)
    if meant := _meant(name):
        if standard := _standard_names().get(meant):
            return JudgedPackage("", PackageStatus.SUSPICIOUS, f"very like {standard} of the standard library")
        project = lists.projects.get(meant) or lists.imports.get(_spellings().get(meant, ""), "")
        return JudgedPackage(project, PackageStatus.SUSPICIOUS, f"very like {project or meant}")
    return JudgedPackage("", PackageStatus.UNKNOWN)


def lists_date() -> date:
    """The day that the older of the shipped lists was gathered."""
    return _lists().made


@cache
def _lists() -> _Lists:
    lines = (_DATA / "names.txt").read_text("utf-8").split("\n")
    meta, known_as, popular, modules, owners, wrong, right, likely = lines
    return _Lists(
        date.fromisoformat(json.loads(meta)["date"]),
        dict(zip(known_as.split(" "), popular.split(" "), strict=True)),
        dict(zip(modules.split(" "), owners.split(" "), strict=True)),
        dict(zip(wrong.split(" "), right.split(" "), strict=True)),
        likely,
    )


@cache
def _likenesses() -> Likenesses:
    likely, existing = (BloomFilter((_DATA / name).read_bytes()) for name in ("likely.bin", "existing.bin"))
    return Likenesses.of(_lists().likely.split(" "), likely, existing)


@cache
def _spellings() -> dict[str, str]:
    """From normalised import names and standard ones to how they are spelt."""
    return {normalised(name): name for name in (*reversed(list(_lists().imports)), *standard_names())}


def _distribution_of(module: str) -> str:
    """The popular project that brings a module, "" when none is known to."""
    lists = _lists()
    parts = module.split(".")
    if parts[0] in _PARTED:
        for length in range(len(parts), 1, -1):
            dotted = re.sub(r"_v\d\w*$", "", ".".join(parts[:length]))
            if dotted in _PARTS:
                return _PARTS[dotted]
            known_as = normalised(dotted)
            squashed = _likenesses().squashes.get(known_as.replace("-", ""), "")
            if project := lists.projects.get(known_as) or lists.projects.get(squashed):
                return project
    if parts[0] in lists.imports:
        return lists.imports[parts[0]]
    return lists.projects.get(normalised(parts[0]), "") if parts[0] == parts[0].lower() else ""


def _imported_as(name: str) -> str:
    """The project that a name in an install command is only the import name of, "" when it is a project's own."""
    lists = _lists()
    known_as = normalised(name)
    project = lists.imports.get(name) or lists.imports.get(known_as.replace("-", "_")) or ""
    if not project or normalised(project) == known_as:
        return ""
    if known_as not in lists.projects:
        return "" if _likenesses().is_excused(known_as) else project
    by_downloads = list(lists.projects)
    owner = normalised(project)
    popular = owner in lists.projects and by_downloads.index(known_as) > _MISTAKEN_FOR * by_downloads.index(owner)
    return project if popular else ""


def _meant(name: str) -> str:
    """What a name, itself on no list, is a misspelling of, normalised; "" when of nothing."""
    likenesses = _likenesses()
    looks = plain(name)
    meant = likenesses.meant_by(normalised(looks))
    return "" if looks == name.lower() and likenesses.is_excused(name) else meant


@cache
def _standard_names() -> dict[str, str]:
    """By normalised name; the private ones are no one's choice."""
    return {normalised(module): module for module in standard_names()}
