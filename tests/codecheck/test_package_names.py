"""What the code check says of the names of packages."""

import pytest

from phichat.code_report import PackageStatus
from phichat.codecheck.package_names import classify_install, classify_module, package_lists_date


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("cv2", "opencv-python"),
        ("yaml", "PyYAML"),
        ("sklearn", "scikit-learn"),
        ("bs4", "beautifulsoup4"),
        ("Crypto", "pycryptodome"),
        ("google.cloud.storage", "google-cloud-storage"),
        ("google.cloud.secretmanager_v1.types", "google-cloud-secret-manager"),
        ("win32com", "pywin32"),
        ("pytest", "pytest"),
        ("utils", ""),
        ("acme_billing", ""),
        ("websocket", "websocket-client"),
        ("PyQt5", "PyQt5"),
        ("Model", ""),
        ("types_", ""),
    ],
)
def test_a_module_names_what_to_install(module: str, distribution: str) -> None:
    judged = classify_module(module)
    assert judged.distribution == distribution
    assert judged.status is not PackageStatus.SUSPICIOUS


@pytest.mark.parametrize(
    "module", ["reqeusts", "Numpy", "pandsa", "matplotlb", "datatime", "rnadom", "r\N{CYRILLIC SMALL LETTER IE}quests"]
)
def test_a_misspelt_module_is_suspicious(module: str) -> None:
    assert classify_module(module).status is PackageStatus.SUSPICIOUS


@pytest.mark.parametrize(
    ("module", "warning"),
    [
        ("Datetime", "very similar to the standard library's datetime"),
        ("Flask", "very similar to flask"),
        ("flask_jwt_extennded", "very similar to flask_jwt_extended"),
        ("scikit_learn", "scikit-learn's module is called sklearn"),
        ("python_telegram_bot", "python-telegram-bot's module is called telegram"),
    ],
)
def test_a_suspicious_module_says_what_was_meant(module: str, warning: str) -> None:
    assert classify_module(module).warning == warning


@pytest.mark.parametrize("module", ["", "\ud800", "x" * 100_000, "--", "\N{SNOWMAN}"])
def test_what_is_no_name_is_unknown(module: str) -> None:
    assert classify_module(module).status is PackageStatus.UNKNOWN
    assert classify_install(module).status is PackageStatus.UNKNOWN


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("reqeusts", "requests"),
        ("tensorfow", "tensorflow"),
        ("scikitlearn", "scikit-learn"),
        ("huggingface-cli", "huggingface_hub"),
        ("cv2", "opencv-python"),
        ("Crypto", "pycryptodome"),
        ("sklearn", "scikit-learn"),
        ("datetime", ""),
        ("json", ""),
        ("urllib2", ""),
        ("datatime", ""),
        ("serial", "pyserial"),
        ("bs4", "beautifulsoup4"),
        ("fast-api", "fastapi"),
    ],
)
def test_a_wrong_name_in_an_install_command_says_what_is_meant(name: str, meant: str) -> None:
    judged = classify_install(name)
    assert judged.status is PackageStatus.SUSPICIOUS
    assert judged.distribution == meant
    assert judged.warning


@pytest.mark.parametrize(
    "name",
    [
        "Flask",
        "scikit_learn",
        "discord.py",
        "acme-billing",
        "humanize",
        "pytest",
        "psycopg2",
        "djongo",
        "DateTimeRange",
    ],
)
def test_a_right_name_in_an_install_command_is_not_suspicious(name: str) -> None:
    assert classify_install(name).status is not PackageStatus.SUSPICIOUS


def test_the_lists_have_a_date() -> None:
    assert package_lists_date().year >= 2025
