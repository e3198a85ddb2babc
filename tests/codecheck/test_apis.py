"""What the check says of the standard library's names: tables of code and what is found in it."""

from __future__ import annotations

import ast
from time import perf_counter

import pytest

from phichat.codecheck.apis import find_bad_apis


def found(code: str, target: tuple[int, int] = (3, 12)) -> dict[str, str]:
    return {bad.name: bad.message for bad in find_bad_apis(ast.parse(code), target)}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import math as m\nm.nope(1)", ["math.nope"]),
        ("import os.path as p\np.nope", ["os.path.nope"]),
        ("import os\nos.path.nope.more", ["os.path.nope"]),
        ("from math import nope as n, pi", ["math.nope"]),
        ("import http.nope", ["http.nope"]),
        ("from concurrent.nope import x", ["concurrent.nope"]),
        ("from datetime import date as d\nd.nope()", ["datetime.date.nope"]),
        ("import datetime as dt\ndt.datetime.now().nope", ["datetime.datetime.nope"]),
        ("import math\nf'{math.a}'\n@math.b\ndef f(x: math.c = math.d) -> math.g: ...", [f"math.{x}" for x in "acdgb"]),
        ("import math\n[math.nope for _ in 'ab']\nmath.nope", ["math.nope"]),
        ("print(nope=1)", ["print(nope=)"]),
        ("len(obj=[])", ["len(obj=)"]),
        ("import subprocess as s\ns.run([], nope=1)", ["subprocess.run(nope=)"]),
        ("from threading import Thread\nThread(function=f)", ["threading.Thread(function=)"]),
        ("text = 'x'\ntext.nope()", ["str.nope"]),
        ("from pathlib import Path\n(Path('a') / 'b').nope()", ["pathlib.Path.nope"]),
        ("def f(text: str):\n    return text.nope()", ["str.nope"]),
        ("import random\nrandom.randint(low=1, high=2)", ["random.randint(high=)", "random.randint(low=)"]),
        ("import zipfile\nzipfile.Path('a').joinpath('b').nope", ["zipfile.Path.nope"]),
        ("with open('x') as file:\n    file.nope()", ["io.TextIOWrapper.nope"]),
    ],
)
def test_what_does_not_exist_is_found_under_its_canonical_name(code: str, names: list[str]) -> None:
    assert sorted(found(code)) == sorted(names)


@pytest.mark.parametrize(
    "code",
    [
        "import zipfile\nzipfile.Path('a.zip').name",
        "import random\nrandom.gauss(mu=0, sigma=1), random.choices([1], k=2)",
        "import math\ndef f(math): math.nope",
        "import math\nfor math in []: math.nope",
        "import math\n[math.nope for math in []]",
        "import math\nmath = other()\nmath.nope",
        "import math\nclass math: pass\nmath.nope",
        "import math\nmath.nope = 1\nmath.nope",
        "import math\nsetattr(math, 'nope', 1)\nmath.nope",
        "import math\nif hasattr(math, 'nope'): math.nope",
        "import math\ntry:\n    math.nope\nexcept AttributeError: pass",
        "try:\n    from math import nope\nexcept ImportError:\n    nope = None",
        "try:\n    import math\nexcept ImportError:\n    from other import math\nmath.nope",
        "import sys, math\nif sys.version_info >= (3, 99): math.nope",
        "import sys, math\nif sys.version_info < (3, 99): sys.exit()\nmath.nope",
        "import sys, math\nNEW = sys.version_info > (3, 9)\nif NEW: math.nope",
        "from contextlib import suppress\nimport math\nwith suppress(AttributeError): math.nope",
        "import math\nmath._nope, math.__nope__",
        "import math\nfrom other import *\nmath.nope",
        "math.nope",
        "from unittest.mock import Mock\nMock().nope.more(a=1)",
        "import types\nspace = types.SimpleNamespace(a=1)\nspace.nope",
        "import argparse\nargs = argparse.ArgumentParser().parse_args()\nargs.nope",
        "from enum import Enum\nclass A(Enum):\n    X = 1\nA.X.nope",
        "from collections import namedtuple\nP = namedtuple('P', 'a')\nP(a=1).a",
        "import threading\nlocal = threading.local()\nlocal.nope",
        "import ctypes\nctypes.CDLL('x').nope()",
        "from pathlib import Path\nclass Mine(Path): pass\nMine().nope(x=1)",
        "dict(x=1), '{x}'.format(x=1)",
        "print(**options)",
        "import os\nos.startfile('x'), os.getuid()",
        "from .math import nope",
        "from typing import Any\ndef f(x: Any): x.nope",
    ],
)
def test_what_may_be_right_is_left_alone(code: str) -> None:
    assert found(code) == {}


@pytest.mark.parametrize(
    ("code", "name", "first"),
    [
        ("import itertools\nitertools.batched", "itertools.batched", 12),
        ("from datetime import UTC", "datetime.UTC", 11),
        ("import math\nmath.cbrt", "math.cbrt", 11),
        ("import typing\ntyping.override", "typing.override", 12),
        ("from pathlib import Path\nPath('x').walk()", "pathlib.Path.walk", 12),
        ("import subprocess as s\ns.run([], process_group=1)", "subprocess.run(process_group=)", 11),
        ("import tempfile\ntempfile.TemporaryDirectory(delete=False)", "tempfile.TemporaryDirectory(delete=)", 12),
    ],
)
def test_a_newer_name_says_what_it_needs(code: str, name: str, first: int) -> None:
    assert found(code, (3, first - 1)) == {name: f"needs Python 3.{first}"}
    assert found(code, (3, first)) == {}


@pytest.mark.parametrize(
    ("code", "name", "gone"),
    [
        ("import inspect\ninspect.getargspec", "inspect.getargspec", 11),
        ("import ssl\nssl.wrap_socket", "ssl.wrap_socket", 12),
        ("import unittest\nunittest.makeSuite", "unittest.makeSuite", 13),
        ("import ast\nast.Num", "ast.Num", 14),
        ("import collections\ncollections.Mapping", "collections.Mapping", 10),
        ("import time\ntime.clock()", "time.clock", 8),
        ("import string\nstring.letters", "string.letters", 0),
        ("{}.has_key(1)", "dict.has_key", 0),
    ],
)
def test_a_removed_name_says_since_when(code: str, name: str, gone: int) -> None:
    assert found(code, (3, max(gone, 10))) == {name: f"removed in 3.{gone}"}
    if gone:
        assert found(code, (3, gone - 1)) == {}


@pytest.mark.timing
@pytest.mark.parametrize(
    "code",
    [
        "\n".join(f"import json as j{n}\nj{n}.nope" for n in range(5_000)),
        "import os\nos" + ".path" * 800,
        "x = 1\n" + "x = x.real\n" * 5_000,
        "import os\n" + "os.nope\n" * 20_000,
    ],
    ids=["imports", "chain", "rebinding", "uses"],
)
def test_hostile_code_ends(code: str) -> None:
    started = perf_counter()
    found(code)
    assert perf_counter() - started < 60  # a hang, not a measurement
