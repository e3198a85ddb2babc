"""Which modules are Python's own, and what is said of those a version lacks."""

import pytest

from phichat.codecheck.stdlib import explain_unavailable, is_stdlib


@pytest.mark.parametrize(
    "module", ["os", "winreg", "fcntl", "distutils", "urllib2", "tomllib", "test", "lib2to3", "_thread"]
)
def test_what_any_python_has_is_never_to_install(module: str) -> None:
    assert is_stdlib(module)


@pytest.mark.parametrize("module", ["requests", "setuptools", "exceptions", "parser"])
def test_other_modules_are_not_standard(module: str) -> None:
    assert not is_stdlib(module)


@pytest.mark.parametrize(
    ("module", "target", "explanation"),
    [
        ("tomllib", (3, 10), "tomllib needs Python 3.11"),
        ("tomllib", (3, 11), ""),
        ("concurrent.interpreters", (3, 13), "concurrent.interpreters needs Python 3.14"),
        ("compression.zstd", (3, 13), "compression needs Python 3.14"),
        ("distutils.core", (3, 12), "distutils was removed in Python 3.12, use setuptools"),
        ("distutils", (3, 11), ""),
        ("cgi", (3, 13), "cgi was removed in Python 3.13"),
        ("urllib2", (3, 12), "urllib2 is Python 2's name for urllib.request"),
        ("os.path", (3, 10), ""),
    ],
)
def test_a_module_that_a_version_lacks_is_said_so(module: str, target: tuple[int, int], explanation: str) -> None:
    assert explain_unavailable(module, target) == explanation
