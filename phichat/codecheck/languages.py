"""Labels of code blocks and the languages they name."""

PYTHON = "python"
MARKDOWN = "markdown"

SESSION_LABELS = frozenset((
    "pycon", "pyconsole", "pythonconsole", "python-repl", "pyrepl", "python-console", "py-console", "doctest",
))  # fmt: skip
"""Labels of interactive sessions, where lines without a prompt are output."""

_PYTHON_LABELS = SESSION_LABELS | frozenset((
    "python", "py", "python2", "python3", "py2", "py3", "python-3", "python_3", "ipython", "ipython2", "ipython3",
    "ipynb", "jupyter", "jupyter-python", "pyi", "gyp", "pyw", "numpy", "pandas", "django", "flask", "sage",
    "micropython", "circuitpython", "testcode", "code-cell", "code-block", "pytb-code", "asy-python",
))  # fmt: skip
_MARKDOWN_LABELS = frozenset((
    "markdown", "md", "mdx", "mkd", "mdown", "gfm", "commonmark", "rmarkdown", "rmd", "quarto", "qmd", "myst",
))  # fmt: skip

_LANGUAGES_WITHOUT_ALIASES = """
    ejs sass scss less svelte cmake gradle jsp swift sed nim zig crystal vyper move cairo opencl glsl hlsl wgsl metal
    mojo apex abap sas stata spss tcl vhdl bicep sparql cypher thrift nix elm purescript rescript haxe hack smalltalk
    forth apl j postscript maple maxima stan chapel agda coq idris eiffel autoit applescript qml puppet brainfuck
    scratch logo dax astro haml slim liquid twig
"""
_ALIASES = {
    "bash": "sh shell console zsh ksh fish shell-session shellsession sh-session bash-session terminal term "
    "command-line commandline command cli shellscript shell-script bashrc dash posix-sh linux unix",
    "powershell": "ps ps1 pwsh posh powershell-session psm1",
    "batch": "bat cmd dos batchfile dosbatch winbatch windows",
    "javascript": "js node nodejs node.js mjs cjs javascript-react es6 ecmascript",
    "jsx": "javascriptreact react",
    "typescript": "ts mts cts",
    "tsx": "typescriptreact",
    "cpp": "c++ cxx cc hpp hxx h++ c++11 c++14 c++17 c++20 cpp11 cpp17 cpp20",
    "arduino": "ino",
    "c": "h c89 c99 c11 ansi-c",
    "csharp": "c# cs c-sharp dotnet .net cake",
    "fsharp": "f# fs fsx",
    "vbnet": "vb.net vb visualbasic visual-basic",
    "go": "golang",
    "rust": "rs",
    "ruby": "rb irb rails gemfile",
    "kotlin": "kt kts",
    "perl": "pl pm perl5",
    "raku": "perl6 p6",
    "haskell": "hs lhs ghci",
    "objectivec": "objective-c obj-c objc mm",
    "objectivecpp": "objective-c++ objc++",
    "ocaml": "ml mli",
    "clojure": "clj cljs cljc edn-clojure",
    "elixir": "ex exs iex",
    "erlang": "erl",
    "r": "rscript rlang splus",
    "julia": "jl julia-repl",
    "matlab": "octave m-file",
    "lisp": "common-lisp commonlisp cl elisp emacs-lisp emacs",
    "scheme": "scm",
    "racket": "rkt",
    "html": "htm xhtml html5",
    "jinja": "jinja2 html+jinja django-html htmldjango",
    "handlebars": "hbs mustache",
    "css": "css3",
    "vue": "vue-html",
    "sql": "mysql postgresql postgres psql sqlite sqlite3 plsql pl/sql tsql t-sql plpgsql mariadb bigquery hiveql "
    "snowflake duckdb",
    "dockerfile": "docker containerfile",
    "makefile": "make mk gnumake",
    "groovy": "jenkinsfile",
    "java": "java8 java11 java17",
    "scala": "sbt sc",
    "dart": "flutter",
    "lua": "luau",
    "php": "php3 php4 php5 php7 php8 blade laravel",
    "awk": "gawk",
    "assembly": "asm nasm masm gas s x86asm armasm arm x86 mips riscv",
    "fortran": "f90 f95 f77 f03 f08 for",
    "cobol": "cbl",
    "pascal": "delphi objectpascal pas",
    "ada": "adb",
    "d": "dlang",
    "v": "vlang",
    "solidity": "sol",
    "cuda": "cu",
    "cython": "pyx pxd",
    "vba": "vbs vbscript excel-vba",
    "basic": "qbasic freebasic",
    "prolog": "swipl",
    "verilog": "systemverilog sv",
    "terraform": "hcl tf",
    "graphql": "gql",
    "protobuf": "proto proto3",
    "gdscript": "gd",
    "coffeescript": "coffee",
    "reason": "reasonml",
    "mathematica": "wolfram wl",
    "lean": "lean4",
    "sml": "standardml",
    "autohotkey": "ahk",
    "starlark": "bazel bzl",
    "vim": "viml vimscript",
    "wasm": "wat webassembly",
    "powerquery": "pq",
    "razor": "cshtml",
    "pug": "jade",
}
_LANGUAGE_BY_LABEL = {
    label: language
    for language, aliases in {**dict.fromkeys(_LANGUAGES_WITHOUT_ALIASES.split(), ""), **_ALIASES}.items()
    for label in (language, *aliases.split())
}

_GENERIC_LABELS = frozenset(("", "code", "example", "snippet", "script", "source", "program", "copy", "none", "auto"))

_DATA_LABELS = frozenset((
    "text", "txt", "plain", "plaintext", "plain-text", "output", "out", "stdout", "stderr", "result", "results", "log",
    "logs", "tree", "json", "jsonc", "json5", "jsonl", "ndjson", "yaml", "yml", "toml", "ini", "cfg", "conf", "config",
    "csv", "tsv", "xml", "svg", "diff", "patch", "env", "dotenv", "properties", "http", "traceback", "error", "errors",
    "pytb", "py3tb", "stacktrace", "mermaid", "plantuml", "dot", "graphviz", "latex", "tex", "math", "bibtex", "regex",
    "gitignore", "requirements", "nginx", "apache", "po", "gettext", "rst", "asciidoc", "ascii", "table",
    "input", "bnf", "ebnf", "pseudocode", "pseudo", "algorithm", "prompt", "email", "url", "pem", "hex",
))  # fmt: skip


_DISPLAY_NAMES = {
    "python": "Python", "cpp": "C++", "csharp": "C#", "javascript": "JavaScript", "typescript": "TypeScript",
}  # fmt: skip


def canonical_language(label: str) -> str | None:
    """Return the canonical language of a label in any case: "" for an unknown label, None for data and output."""
    name = label.strip().lower()
    if name in _DATA_LABELS:
        return None
    if name in _PYTHON_LABELS:
        return PYTHON
    if name in _MARKDOWN_LABELS:
        return MARKDOWN
    return _LANGUAGE_BY_LABEL.get(name, "")


def is_generic_label(label: str) -> bool:
    """Return True for a label that says nothing about the content, such as `code`."""
    return label.strip().lower() in _GENERIC_LABELS


def display_name(language: str) -> str:
    """Return a language's name as people write it."""
    return _DISPLAY_NAMES.get(language, language)
