"""Just enough C to lint by: comments and strings told from code, functions found.

Not a parser. It relies on the house style (no macros that open a brace and do
not close it) and reads only the first branch of every #if.
"""
import re
from dataclasses import dataclass

TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
BRANCH = re.compile(r"^[ \t]*#[ \t]*(if|ifdef|ifndef|elif|else|endif)\b")
CALLEE = re.compile(r"([A-Za-z_]\w*)\s*\(")


@dataclass
class Function:
    name: str
    line: int       # of its signature
    lines: int      # signature to closing brace
    params: str
    is_definition: bool


def blank(text):
    """The same lines, with nothing on them."""
    return re.sub(r"[^\n]", " ", text)


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def comments(text):
    return [(m.start(), m[0]) for m in TOKEN.finditer(text) if m[0].startswith("/")]


def code_only(text):
    """Comments blanked, the contents of strings too."""
    return TOKEN.sub(lambda m: blank(m[0]) if m[0][0] == "/" else m[0][0] + blank(m[0][1:-1]) + m[0][0], text)


def without_directives(code):
    """Preprocessor lines blanked, and the later branches of every #if."""
    out, skipping, depth = [], 0, 0
    for line in DIRECTIVE.sub(lambda m: m[0].replace("\\\n", "\\\0"), code).split("\n"):
        line = line.replace("\\\0", "\\\n")
        m = BRANCH.match(line)
        if m:
            if m[1].startswith("if"):
                depth += 1
            elif m[1] == "endif":
                if skipping == depth:
                    skipping = 0
                depth -= 1
            elif skipping == 0:
                skipping = depth
        out.append(blank(line) if skipping or line.lstrip().startswith("#") else line)
    return "\n".join(out)


def close_of(code, at, pair):
    """Index of the bracket that closes the one at `at`, or the end."""
    depth = 0
    for i in range(at, len(code)):
        if code[i] == pair[0]:
            depth += 1
        elif code[i] == pair[1]:
            depth -= 1
            if depth == 0:
                return i
    return len(code) - 1


def count_params(text):
    """How many parameters these are."""
    text = text.strip()
    if text in ("", "void"):
        return 0
    depth, n = 0, 1
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        n += c == "," and depth == 0
    return n


def declarator(chunk):
    """(name, start of its parentheses) of a function's declaration, or None."""
    for m in CALLEE.finditer(chunk):
        if "=" in chunk[:m.start()] or "typedef" in chunk[:m.start()]:
            return None
        if m[1].isupper() or m[1].startswith(("__", "_Static", "static_assert")) or chunk[m.end() - 1:].startswith("(*"):
            continue
        return m[1], m.end() - 1
    return None


def functions(text):
    """Definitions and prototypes at the top level of a file."""
    code = without_directives(code_only(text))
    start = i = 0
    while i < len(code):
        if code[i] == "(":
            i = close_of(code, i, "()")
        elif code[i] == ";":
            yield from one_function(code, start, i, i, False)
            start = i + 1
        elif code[i] == "{":
            end = close_of(code, i, "{}")
            head = code[start:i].rstrip()
            if head.endswith(")") and declarator(head):
                yield from one_function(code, start, i, end, True)
                start = end + 1
            i = end
        i += 1


def one_function(code, start, stop, end, is_definition):
    chunk = code[start:stop]
    found = declarator(chunk)
    if found is None:
        return
    name, paren = found
    start += len(chunk) - len(chunk.lstrip())
    inside = chunk[paren + 1:close_of(chunk, paren, "()")]
    first = line_of(code, start)
    yield Function(name, first, line_of(code, end) - first + 1, inside, is_definition)


def switches(text):
    """(line, labels, has a default) of every switch, its own labels only."""
    code = without_directives(code_only(text))
    for m in re.finditer(r"\bswitch\s*\(", code):
        brace = code.find("{", close_of(code, m.end() - 1, "()"))
        body = own_level(code[brace + 1:close_of(code, brace, "{}")])
        labels = re.findall(r"\bcase\s+([^:]+?)\s*:", body)
        yield line_of(code, m.start()), labels, re.search(r"\bdefault\s*:", body) is not None


def own_level(body):
    """A switch's body without the switches inside it."""
    while m := re.search(r"\bswitch\s*\(", body):
        brace = body.find("{", close_of(body, m.end() - 1, "()"))
        end = close_of(body, brace, "{}")
        body = body[:m.start()] + blank(body[m.start():end + 1]) + body[end + 1:]
    return body
