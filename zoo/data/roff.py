"""Manual pages in roff as plain text."""

import re

VERSION = 1  # of the rules, by which a stale cache is known
# Of roff, what pages in four languages write; others become nothing.
SPECIAL = {
    "lq": "“",
    "rq": "”",
    "oq": "‘",
    "cq": "’",
    "aq": "'",
    "dq": '"',
    "em": "—",
    "en": "–",
    "hy": "-",
    "bu": "•",
    "co": "©",
    "ha": "^",
    "ti": "~",
    "rs": "\\",
    "Fo": "«",
    "Fc": "»",
    "->": "→",
    "<-": "←",
    ">=": "≥",
    "<=": "≤",
    "mu": "×",
    "+-": "±",
    "*m": "µ",
}
ESCAPES = re.compile(
    r"\\(?:"
    r"(?P<comment>[\"#].*)"
    r"|\((?P<two>..)"
    r"|\[(?P<long>[^\]\s]*)\]"
    r"|[fFkgnM*mY](?:\[[^\]]*\]|\(..|.)"
    r"|s(?:\[[^\]]*\]|[-+]?\d)"
    r"|(?P<sized>[hvwlLDXbo])'[^']*'"
    r"|(?P<one>[-e.'`~0 tE])"
    r"|[&/,|^:%{}zcdupra!?()]"
    r")"
)
ONE = {"e": "\\", "E": "\\", "~": " ", "0": " ", " ": " ", "t": "\t"}
# Macros whose arguments are text, those of them in a run of two fonts, those
# that end a paragraph, and those whose lines are no text up to another.
TEXT = {"B", "I", "SB", "SM", "Dq", "Sq", "Li", "Em", "Sy", "Nm", "Fl", "Ar"}
FONTS = {"BR", "RB", "IR", "RI", "BI", "IB"}
SECTIONS = {"SH", "Sh"}
TITLES = {*SECTIONS, "SS", "Ss"}
BREAKS = {"PP", "P", "LP", "TP", "HP", "IP", "TQ", "Pp", "It", "sp", "br"}
SKIPPED = {"de": "..", "ig": ".."}
# Sections about people and licences, alike on all pages of a language.
LEFT_OUT = {
    *("ÜBERSETZUNG", "AUTOR", "AUTOREN", "FEHLER MELDEN", "COPYRIGHT"),
    *("TRADUCTION", "AUTEUR", "AUTEURS", "SIGNALER DES BOGUES"),
    *("TRADUCCIÓN", "AUTORES", "INFORMAR DE ERRORES"),
    *("作者", "著者", "著作権", "この文書について", "バグ報告", "翻訳者謝辞"),
    *("AUTHOR", "AUTHORS", "REPORTING BUGS"),
}
ADDRESS = re.compile(r"<?[\w.+-]+@[\w-]+(?:\.[\w-]+)+>?")


def plain(page: str) -> str:
    """A manual page without marks of fonts, macros and comments.

    Titles, paragraphs and lists begin lines of their own; lines of a
    paragraph are left as the page breaks them. Sections about people and
    addresses of mail are left out.
    """
    lines, until, tables = [], None, False
    silent = False
    for line in page.splitlines():
        if until is not None:
            until = None if line.startswith(until) else until
            continue
        if not line.startswith((".", "'")):
            if silent:
                continue
            if not (tables and line.rstrip().endswith((";", "."))):
                lines.append(_text(line))
            elif line.rstrip().endswith("."):
                tables = False  # the last line of a table's format
            continue
        name, _, rest = line[1:].strip().partition(" ")
        if name in SKIPPED:
            until = SKIPPED[name]
        elif name in TITLES:
            title = _text(" ".join(_arguments(rest)))
            if name in SECTIONS:
                silent = title.upper() in LEFT_OUT
            lines += [] if silent else ["", title]
        elif silent:
            continue
        elif name in BREAKS:
            # IP's first argument is the label of its paragraph.
            label = _arguments(rest)[:1] if name == "IP" else []
            lines += ["", *(_text(word) for word in label)]
        elif name in TEXT:
            lines.append(_text(" ".join(_arguments(rest))))
        elif name in FONTS:
            lines.append(_text("".join(_arguments(rest))))
        elif name in ("UR", "MT"):
            lines.append(_text(rest))
        tables = name == "TS" or (tables and name != "TE")
    text = "\n".join(line.rstrip() for line in lines)
    text = ADDRESS.sub("", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _arguments(rest):
    """The arguments of a macro: words, or text in double quotes."""
    found = re.findall(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s"\\])\S*)', rest)
    return [quoted.replace('""', '"') or word for quoted, word in found]


def _text(line):
    """A line without escapes."""

    def meant(match):
        code = match["two"] or match["long"]
        if code is not None:
            if re.fullmatch(r"u[0-9A-F]{4,5}", code):
                return chr(int(code[1:], 16))
            return SPECIAL.get(code, "")
        return ONE.get(match["one"], match["one"] or "")

    return ESCAPES.sub(meant, line)
