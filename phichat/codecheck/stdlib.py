"""Modules that are, were or will be part of the standard library, and why a version lacks one.

From the "Removed" and "New modules" sections of What's New in Python 3.8 to 3.15, PEP 594, and the
renamed modules of PEP 3108. Whatever the platform: `winreg` and `fcntl` are standard everywhere.
"""

import sys
from itertools import accumulate

_NAMES_ADDED_IN: dict[tuple[int, int], str] = {
    (3, 9): "graphlib zoneinfo",
    (3, 11): "asyncio.taskgroups asyncio.timeouts importlib.resources.abc importlib.resources.readers "
    "importlib.resources.simple tomllib wsgiref.types",
    (3, 13): "dbm.sqlite3 importlib.metadata.diagnose",
    (3, 14): "annotationlib asyncio.graph asyncio.tools compression concurrent.futures.interpreter "
    "concurrent.interpreters pathlib.types string.templatelib",
    (3, 15): "math.integer profiling",
}
_NAMES_REMOVED_IN: dict[tuple[int, int], str] = {
    (3, 8): "macpath",
    (3, 9): "_dummy_thread _dummy_threading dummy_threading xml.etree.cElementTree",
    (3, 10): "symbol",
    (3, 11): "binhex",
    (3, 12): "asynchat asyncore distutils imp smtpd",
    (3, 13): "aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev pipes sndhdr "
    "spwd sunau telnetlib tkinter.tix uu xdrlib",
}
"""Without `formatter` and `parser`, removed in 3.10: today these are names of people's own files."""

_ADDED_IN = {name: version for version, names in _NAMES_ADDED_IN.items() for name in names.split()}
_REMOVED_IN = {name: version for version, names in _NAMES_REMOVED_IN.items() for name in names.split()}

_REPLACEMENTS = {
    "_dummy_thread": "_thread", "asynchat": "asyncio", "asyncore": "asyncio", "binhex": "binascii",
    "crypt": "hashlib", "distutils": "setuptools", "dummy_threading": "threading", "imghdr": "mimetypes",
    "imp": "importlib", "mailcap": "mimetypes", "pipes": "subprocess", "smtpd": "the aiosmtpd package",
    "telnetlib": "socket", "uu": "base64", "xml.etree.cElementTree": "xml.etree.ElementTree",
}  # fmt: skip
_PYTHON_2_RENAMES = {
    "BaseHTTPServer": "http.server", "CGIHTTPServer": "http.server", "ConfigParser": "configparser",
    "Cookie": "http.cookies", "DocXMLRPCServer": "xmlrpc.server", "HTMLParser": "html.parser", "Queue": "queue",
    "ScrolledText": "tkinter.scrolledtext", "SimpleHTTPServer": "http.server", "SimpleXMLRPCServer": "xmlrpc.server",
    "SocketServer": "socketserver", "StringIO": "io", "Tix": "tkinter.ttk", "Tkconstants": "tkinter.constants",
    "Tkdnd": "tkinter.dnd", "Tkinter": "tkinter", "UserDict": "collections", "UserList": "collections",
    "UserString": "collections", "__builtin__": "builtins", "_winreg": "winreg", "anydbm": "dbm", "cPickle": "pickle",
    "cStringIO": "io", "commands": "subprocess", "cookielib": "http.cookiejar", "copy_reg": "copyreg",
    "dbhash": "dbm", "dumbdbm": "dbm.dumb", "dummy_thread": "_thread", "future_builtins": "builtins",
    "gdbm": "dbm.gnu", "hotshot": "cProfile", "htmlentitydefs": "html.entities", "htmllib": "html.parser",
    "httplib": "http.client", "imputil": "importlib", "markupbase": "html.parser", "md5": "hashlib",
    "mhlib": "mailbox", "mimetools": "email", "popen2": "subprocess", "repr": "reprlib", "rfc822": "email",
    "robotparser": "urllib.robotparser", "sgmllib": "html.parser", "sha": "hashlib", "statvfs": "os",
    "thread": "threading", "tkColorChooser": "tkinter.colorchooser", "tkCommonDialog": "tkinter.commondialog",
    "tkFileDialog": "tkinter.filedialog", "tkFont": "tkinter.font", "tkMessageBox": "tkinter.messagebox",
    "tkSimpleDialog": "tkinter.simpledialog", "ttk": "tkinter.ttk", "urllib2": "urllib.request",
    "urlparse": "urllib.parse", "whichdb": "dbm", "xmllib": "xml.parsers.expat", "xmlrpclib": "xmlrpc.client",
}  # fmt: skip
"""Without `user`, `new`, `sets`, `exceptions`, `compiler`: in today's code these are people's own files."""

_UNLISTED_MODULES = frozenset({"__main__", "test", "turtledemo", "_typeshed"})
"""Top-level names that `sys.stdlib_module_names` leaves out: the interpreter's, its test suite, a checker's."""


def is_stdlib(module: str) -> bool:
    """Return True for a module that is or was part of any Python, by its top-level name."""
    tables = (sys.stdlib_module_names, _UNLISTED_MODULES, _ADDED_IN, _REMOVED_IN, _PYTHON_2_RENAMES)
    return any(module.partition(".")[0] in table for table in tables)


def explain_unavailable(module: str, target: tuple[int, int]) -> str:
    """Return why that version of Python cannot import a standard module, dotted or not; "" when it can."""
    explanations = (_explain_module(name, target) for name in accumulate(module.split("."), "{}.{}".format))
    return next(filter(None, explanations), "")


def stdlib_module_names() -> frozenset[str]:
    """Return the public top-level modules of every Python 3: what a misspelt import may have meant."""
    names = {*sys.stdlib_module_names, *_ADDED_IN, *_REMOVED_IN}
    return frozenset(name for name in names if "." not in name and not name.startswith("_"))


def _explain_module(module: str, target: tuple[int, int]) -> str:
    if added := _ADDED_IN.get(module):
        return "" if target >= added else f"{module} needs Python {added[0]}.{added[1]}"
    if module in _PYTHON_2_RENAMES:
        return f"{module} is Python 2's name for {_PYTHON_2_RENAMES[module]}"
    removed = _REMOVED_IN.get(module)
    if removed is None or target < removed:
        return ""
    replacement = f", use {_REPLACEMENTS[module]}" if module in _REPLACEMENTS else ""
    return f"{module} was removed in Python {removed[0]}.{removed[1]}{replacement}"
