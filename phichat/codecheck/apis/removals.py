"""Names that left the standard library before the oldest version of the snapshot."""

_REMOVED_IN_3_0 = """
    dict.has_key dict.iteritems dict.iterkeys dict.itervalues dict.viewitems dict.viewkeys dict.viewvalues
    itertools.ifilter itertools.ifilterfalse itertools.imap itertools.izip itertools.izip_longest list.sort(cmp=)
    operator.div operator.isCallable operator.sequenceIncludes os.errno os.getcwdu os.popen2 os.popen3 os.popen4
    os.tempnam os.tmpnam sorted(cmp=) str.decode string.atof string.atoi string.find string.join string.joinfields
    string.letters string.lower string.lowercase string.maketrans string.replace string.split string.strip
    string.upper string.uppercase string.zfill sys.exc_clear sys.exc_type sys.exc_value sys.maxint
    sys.setdefaultencoding types.ClassType types.DictType types.IntType types.ListType types.StringType
    types.StringTypes types.UnicodeType urllib.quote urllib.quote_plus urllib.unquote urllib.unquote_plus
    urllib.urlencode urllib.urlopen urllib.urlretrieve
"""
_REMOVED_BY_VERSION = {
    "3.7": "asyncio.async",
    "3.8": "time.clock platform.popen cgi.escape cgi.parse_qs cgi.parse_qsl"
    " tarfile.filemode html.parser.HTMLParseError",
    "3.9": "fractions.gcd array.array.tostring array.array.fromstring base64.encodestring base64.decodestring"
    " threading.Thread.isAlive xml.etree.cElementTree plistlib.readPlist plistlib.writePlist "
    " plistlib.readPlistFromBytes"
    " plistlib.writePlistToBytes asyncio.Task.current_task asyncio.Task.all_tasks"
    " json.loads(encoding=) sys.getcheckinterval"
    " sys.setcheckinterval sys.callstats html.parser.HTMLParser.unescape",
    "3.10": "collections.Mapping collections.MutableMapping collections.Sequence collections.MutableSequence"
    " collections.Iterable collections.Iterator collections.Callable collections.Hashable collections.Sized"
    " collections.Container collections.Set collections.MutableSet collections.Generator collections.Awaitable"
    " collections.Coroutine collections.AsyncIterable collections.AsyncIterator collections.KeysView"
    " collections.ItemsView collections.ValuesView collections.MappingView collections.Reversible"
    " collections.ByteString collections.Collection",
}


def find_removal(name: str) -> tuple[int, int] | None:
    """Return the version that removed a name, if 3.10 or older; None for a name that is not known to have existed."""
    if name in _REMOVED_IN_3_0.split():
        return 3, 0
    version_text = next((version for version, names in _REMOVED_BY_VERSION.items() if name in names.split()), None)
    return None if version_text is None else (3, int(version_text.partition(".")[2]))
