"""What is known of the names of packages: which project an import name belongs to, and which names look wrong.

From the lists that tools/make_names.py gathers and from what is installed here; nothing is imported, asked for
on a network, or looked up in the working directory.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from phichat.code_report import PackageStatus
from phichat.codecheck.installed import installed_distribution, owner_of_module
from phichat.codecheck.nearness import BloomFilter, misspelt, normalised, plain, squashed
from phichat.codecheck.stdlib import is_stdlib, standard_names

_MADE_UP = {
    "huggingface-cli": "huggingface_hub",
    "hugging-face": "huggingface_hub",
    "pytorch": "torch",
    "pytorch-vision": "torchvision",
    "opencv": "opencv-python",
    "opencv2": "opencv-python",
    "python-opencv": "opencv-python",
    "sklearn": "scikit-learn",
    "bs4": "beautifulsoup4",
    "beautifulsoup": "beautifulsoup4",
    "beautiful-soup": "beautifulsoup4",
    "beautifulsoup3": "beautifulsoup4",
    "scikit": "scikit-learn",
    "dotenv": "python-dotenv",
    "tensorflow-gpu": "tensorflow",
    "crypto": "pycryptodome",
    "pil": "pillow",
    "pyqt": "PyQt5",
    "google-generative-ai": "google-generativeai",
    "python-telegram": "python-telegram-bot",
    "openai-python": "openai",
    "websocket": "websocket-client",
    "llama-cpp": "llama-cpp-python",
    "ffmpeg": "ffmpeg-python",
    "docx": "python-docx",
    "fitz": "PyMuPDF",
    "jwt": "PyJWT",
    "magic": "python-magic",
    "serial": "pyserial",
    "slugify": "python-slugify",
    "telegram": "python-telegram-bot",
    "request": "requests",
    "python-requests": "requests",
}
"""Names that models write in install commands for what is called otherwise; some are shims, some other projects."""

_NO_MODULES = {
    "pytorch": "torch",
    "request": "requests",
    "opencv": "cv2",
    "opencv2": "cv2",
    "beautifulsoup": "bs4",
    "BeautifulSoup": "bs4",
    "BeautifulSoup4": "bs4",
    "beautifulsoup4": "bs4",
    "scikit_learn": "sklearn",
    "scikitlearn": "sklearn",
    "pyyaml": "yaml",
    "pillow": "PIL",
    "huggingface": "huggingface_hub",
    "huggingface_cli": "huggingface_hub",
    "python_dotenv": "dotenv",
    "tensorflow_gpu": "tensorflow",
    "pyserial": "serial",
    "pycryptodome": "Crypto",
    "pycrypto": "Crypto",
    "opencv_python": "cv2",
    "python_docx": "docx",
    "pyjwt": "jwt",
    "protobuf": "google.protobuf",
    "python_dateutil": "dateutil",
}
"""Names of projects, whole or clipped, that models import although the project's module is another."""

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


@dataclass(frozen=True, slots=True)
class _Likenesses:
    """What a name that is not on the lists is compared with."""

    ranks: Mapping[str, int]
    squashes: Mapping[str, str]
    module_ranks: Mapping[str, int]
    module_squashes: Mapping[str, str]
    spellings: Mapping[str, str]
    """From normalised import names and standard ones to how they are spelt."""
    excused: BloomFilter


def judge_module(module: str) -> JudgedPackage:
    """What to install for a module outside the standard library. module: dotted or not, as it is imported."""
    top_level = module.partition(".")[0]
    distribution = _distribution_of(module)
    if owner := owner_of_module(top_level, distribution):
        return JudgedPackage(owner if top_level not in _PARTED else distribution or owner, PackageStatus.INSTALLED)
    if top_level in _NO_MODULES:
        meant = _NO_MODULES[top_level]
        project = _distribution_of(meant)
        return JudgedPackage(project, PackageStatus.SUSPICIOUS, f"the module of {project} is {meant}")
    if distribution:
        return JudgedPackage(distribution, PackageStatus.KNOWN)
    if top_level in _lists().imports:
        return JudgedPackage("", PackageStatus.UNKNOWN)
    if meant := _module_meant(top_level):
        remark = f"{meant} of the standard library" if is_stdlib(meant) else meant
        project = "" if is_stdlib(meant) else _distribution_of(meant)
        return JudgedPackage(project, PackageStatus.SUSPICIOUS, f"very like {remark}")
    return JudgedPackage("", PackageStatus.UNKNOWN)


def judge_install(name: str) -> JudgedPackage:
    """What a name in an install command stands for. name: without version, extras or markers."""
    lists = _lists()
    known_as = normalised(name)
    if meant := _MADE_UP.get(known_as):
        return JudgedPackage(meant, PackageStatus.SUSPICIOUS, f"the distribution is {meant}")
    if standard := _standard_name(name):
        instead = _STANDARD_ELSEWHERE.get(standard, "")
        remark = f"{standard} is in the standard library" + (f", elsewhere {instead} brings it" if instead else "")
        return JudgedPackage("", PackageStatus.SUSPICIOUS, remark)
    if installed := installed_distribution(known_as):
        return JudgedPackage(installed, PackageStatus.INSTALLED)
    imported = lists.imports.get(name) or lists.imports.get(known_as.replace("-", "_"))
    if imported and known_as not in lists.projects and not _is_excused("d", known_as):
        return JudgedPackage(
            imported, PackageStatus.SUSPICIOUS, f"{name} is an import name, the distribution is {imported}"
        )
    if project := lists.projects.get(known_as):
        return JudgedPackage(project, PackageStatus.KNOWN)
    if meant := _project_meant(name):
        return JudgedPackage(meant, PackageStatus.SUSPICIOUS, f"very like {meant}")
    return JudgedPackage("", PackageStatus.UNKNOWN)


def lists_date() -> date:
    """The day that the older of the shipped lists was gathered."""
    return _lists().made


def ranks_of_modules(popular: Iterable[str], imports: Mapping[str, str]) -> dict[str, int]:
    """How popular the modules are that an import may have meant, by normalised name; standard ones come first."""
    ranks = {normalised(project): rank for rank, project in enumerate(popular)}
    renamed = {normalised(module): ranks.get(normalised(project), len(ranks)) for module, project in imports.items()}
    return ranks | renamed | {normalised(name): 0 for name in standard_names()}


def squashes_of(ranks: Mapping[str, int]) -> dict[str, str]:
    """The names by what is left of them without separators, the most popular of each."""
    return {squashed(name): name for name in sorted(ranks, key=ranks.__getitem__, reverse=True)}


@cache
def _lists() -> _Lists:
    folder = Path(__file__).with_name("data")
    meta, popular, *pairs = gzip.decompress((folder / "names.gz").read_bytes()).decode().split("\n")
    projects = dict(zip(normalised(popular).split(" "), popular.split(" "), strict=True))
    imports = {module: project for module, _, project in (pair.partition(" ") for pair in pairs)}
    return _Lists(date.fromisoformat(json.loads(meta)["date"]), projects, imports)


@cache
def _likenesses() -> _Likenesses:
    lists = _lists()
    folder = Path(__file__).with_name("data")
    ranks = {name: rank for rank, name in enumerate(lists.projects)}
    module_ranks = ranks_of_modules(lists.projects.values(), lists.imports)
    return _Likenesses(
        ranks=ranks,
        squashes=squashes_of(ranks),
        module_ranks=module_ranks,
        module_squashes=squashes_of(module_ranks),
        spellings={normalised(name): name for name in (*reversed(list(lists.imports)), *standard_names())},
        excused=BloomFilter((folder / "near.bin").read_bytes()),
    )


def _distribution_of(module: str) -> str:
    """The popular project that brings a module, "" when none is known to."""
    lists = _lists()
    parts = module.split(".")
    if parts[0] in _PARTED:
        for length in range(len(parts), 1, -1):
            dotted = ".".join(parts[:length])
            if dotted in _PARTS:
                return _PARTS[dotted]
            if project := lists.projects.get(normalised(dotted)):
                return project
    if parts[0] in lists.imports:
        return lists.imports[parts[0]]
    is_spelt_so = parts[0] == parts[0].lower() or parts[0] in lists.projects.values()
    return lists.projects.get(normalised(parts[0]), "") if is_spelt_so else ""


def _module_meant(module: str) -> str:
    likenesses = _likenesses()
    looks = plain(module)
    name = normalised(looks)
    if name not in likenesses.module_ranks:
        name = misspelt(name, likenesses.module_ranks, likenesses.module_squashes)
    if not name or (looks == module.lower() and _is_excused("m", module)):
        return ""
    return likenesses.spellings.get(name, name.replace("-", "_"))


def _project_meant(name: str) -> str:
    likenesses = _likenesses()
    looks = normalised(plain(name))
    meant = looks if looks in likenesses.ranks else misspelt(looks, likenesses.ranks, likenesses.squashes)
    if looks == normalised(name) and _is_excused("d", looks):
        return ""
    return _lists().projects.get(meant, "")


def _is_excused(kind: str, name: str) -> bool:
    return f"{kind} {name}" in _likenesses().excused or f"{kind} {normalised(name)}" in _likenesses().excused


def _standard_name(name: str) -> str:
    """The standard module that bears a distribution's name, whatever the case; private ones are no one's choice."""
    return {normalised(module): module for module in standard_names()}.get(normalised(name), "")
