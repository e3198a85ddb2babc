"""Which modules are, were or will be Python's own, and what to say of those a version lacks.

From the "Removed" and "New modules" sections of What's New in Python 3.8 to 3.15, PEP 594, and the
renamed modules of PEP 3108. Whatever the platform: `winreg` and `fcntl` are standard everywhere.
"""

from __future__ import annotations

import sys

_ADDED_IN: dict[str, tuple[int, int]] = {
    "annotationlib": (3, 14),
    "asyncio.graph": (3, 14),
    "asyncio.taskgroups": (3, 11),
    "asyncio.timeouts": (3, 11),
    "asyncio.tools": (3, 14),
    "compression": (3, 14),
    "concurrent.futures.interpreter": (3, 14),
    "concurrent.interpreters": (3, 14),
    "dbm.sqlite3": (3, 13),
    "graphlib": (3, 9),
    "importlib.metadata.diagnose": (3, 13),
    "importlib.resources.abc": (3, 11),
    "importlib.resources.readers": (3, 11),
    "importlib.resources.simple": (3, 11),
    "math.integer": (3, 15),
    "pathlib.types": (3, 14),
    "profiling": (3, 15),
    "string.templatelib": (3, 14),
    "tomllib": (3, 11),
    "wsgiref.types": (3, 11),
    "zoneinfo": (3, 9),
}

_REMOVED_IN: dict[str, tuple[int, int]] = {
    "macpath": (3, 8),
    "_dummy_thread": (3, 9),
    "_dummy_threading": (3, 9),
    "dummy_threading": (3, 9),
    "xml.etree.cElementTree": (3, 9),
    "symbol": (3, 10),
    "binhex": (3, 11),
    "asynchat": (3, 12),
    "asyncore": (3, 12),
    "distutils": (3, 12),
    "imp": (3, 12),
    "smtpd": (3, 12),
    "aifc": (3, 13),
    "audioop": (3, 13),
    "cgi": (3, 13),
    "cgitb": (3, 13),
    "chunk": (3, 13),
    "crypt": (3, 13),
    "imghdr": (3, 13),
    "lib2to3": (3, 13),
    "mailcap": (3, 13),
    "msilib": (3, 13),
    "nis": (3, 13),
    "nntplib": (3, 13),
    "ossaudiodev": (3, 13),
    "pipes": (3, 13),
    "sndhdr": (3, 13),
    "spwd": (3, 13),
    "sunau": (3, 13),
    "telnetlib": (3, 13),
    "tkinter.tix": (3, 13),
    "uu": (3, 13),
    "xdrlib": (3, 13),
}
"""`formatter` and `parser`, gone since 3.10, are left out: today these are names of people's own files."""

_REPLACEMENTS: dict[str, str] = {
    "_dummy_thread": "_thread",
    "asynchat": "asyncio",
    "asyncore": "asyncio",
    "binhex": "binascii",
    "crypt": "hashlib",
    "distutils": "setuptools",
    "dummy_threading": "threading",
    "imghdr": "mimetypes",
    "imp": "importlib",
    "mailcap": "mimetypes",
    "pipes": "subprocess",
    "smtpd": "the aiosmtpd package",
    "telnetlib": "socket",
    "uu": "base64",
    "xml.etree.cElementTree": "xml.etree.ElementTree",
}

_PYTHON_2_RENAMES: dict[str, str] = {
    "BaseHTTPServer": "http.server",
    "CGIHTTPServer": "http.server",
    "ConfigParser": "configparser",
    "Cookie": "http.cookies",
    "DocXMLRPCServer": "xmlrpc.server",
    "HTMLParser": "html.parser",
    "Queue": "queue",
    "ScrolledText": "tkinter.scrolledtext",
    "SimpleHTTPServer": "http.server",
    "SimpleXMLRPCServer": "xmlrpc.server",
    "SocketServer": "socketserver",
    "StringIO": "io",
    "Tix": "tkinter.ttk",
    "Tkconstants": "tkinter.constants",
    "Tkdnd": "tkinter.dnd",
    "Tkinter": "tkinter",
    "UserDict": "collections",
    "UserList": "collections",
    "UserString": "collections",
    "__builtin__": "builtins",
    "_winreg": "winreg",
    "anydbm": "dbm",
    "cPickle": "pickle",
    "cStringIO": "io",
    "commands": "subprocess",
    "cookielib": "http.cookiejar",
    "copy_reg": "copyreg",
    "dbhash": "dbm",
    "dumbdbm": "dbm.dumb",
    "dummy_thread": "_thread",
    "future_builtins": "builtins",
    "gdbm": "dbm.gnu",
    "hotshot": "cProfile",
    "htmlentitydefs": "html.entities",
    "htmllib": "html.parser",
    "httplib": "http.client",
    "imputil": "importlib",
    "markupbase": "html.parser",
    "md5": "hashlib",
    "mhlib": "mailbox",
    "mimetools": "email",
    "popen2": "subprocess",
    "repr": "reprlib",
    "rfc822": "email",
    "robotparser": "urllib.robotparser",
    "sgmllib": "html.parser",
    "sha": "hashlib",
    "statvfs": "os",
    "thread": "threading",
    "tkColorChooser": "tkinter.colorchooser",
    "tkCommonDialog": "tkinter.commondialog",
    "tkFileDialog": "tkinter.filedialog",
    "tkFont": "tkinter.font",
    "tkMessageBox": "tkinter.messagebox",
    "tkSimpleDialog": "tkinter.simpledialog",
    "ttk": "tkinter.ttk",
    "urllib2": "urllib.request",
    "urlparse": "urllib.parse",
    "whichdb": "dbm",
    "xmllib": "xml.parsers.expat",
    "xmlrpclib": "xmlrpc.client",
}
"""Without `user`, `new`, `sets`, `exceptions`, `compiler`: in today's code these are people's own files."""

_UNLISTED_MODULES = frozenset({"__main__", "test", "turtledemo", "_typeshed"})
"""Top-level names that `sys.stdlib_module_names` leaves out: the interpreter's, its test suite, a checker's."""


def is_stdlib(module: str) -> bool:
    """Whether a module, by its top-level name, is or was part of any Python: never something to install."""
    top_level = module.partition(".")[0]
    return (
        top_level in sys.stdlib_module_names
        or top_level in _UNLISTED_MODULES
        or top_level in _ADDED_IN
        or top_level in _REMOVED_IN
        or top_level in _PYTHON_2_RENAMES
    )


def explain_unavailable(module: str, target: tuple[int, int]) -> str:
    """Why a standard module (dotted or not) cannot be imported by that version of Python, "" when it can."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        explanation = _explain_module(".".join(parts[:length]), target)
        if explanation:
            return explanation
    return ""


def stdlib_module_names() -> frozenset[str]:
    """Top-level modules of every Python 3, the private ones left out: what a misspelt import may have meant."""
    names = {*sys.stdlib_module_names, *_ADDED_IN, *_REMOVED_IN}
    return frozenset(name for name in names if "." not in name and not name.startswith("_"))


def _explain_module(module: str, target: tuple[int, int]) -> str:
    if added := _ADDED_IN.get(module):
        return "" if target >= added else f"{module} needs Python {_format_version(added)}"
    if module in _PYTHON_2_RENAMES:
        return f"{module} is Python 2's name of {_PYTHON_2_RENAMES[module]}"
    removed = _REMOVED_IN.get(module)
    if removed is None or target < removed:
        return ""
    replacement = f", use {_REPLACEMENTS[module]}" if module in _REPLACEMENTS else ""
    return f"{module} was removed in Python {_format_version(removed)}{replacement}"


def _format_version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
