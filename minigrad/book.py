"""The book of formulas as one page that needs nothing else: no script, no font, no network.

An indented line of a docstring is a formula if it has a number at its end or says what something is; typeset.py draws
it. A number is a link to its equation wherever it stands, in the text and in the sources of all implementations.
"""
import html
import inspect
import re
from pathlib import Path

from minigrad.tensor import Op
from minigrad.typeset import Unreadable, mathml

NUMBER = re.compile(r"\[([A-Z]{2})(\d+)((?:[-,]\d+)*)\]")
FORMULA = re.compile(r" {4,}(\S.*?)(?: +\[([A-Z]{2}\d+)\])?$")
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: auto; padding: 1rem; }
nav { columns: 14rem; } nav div { break-inside: avoid; margin-bottom: .5rem; }
h2 { border-top: 1px solid; padding-top: 1rem; margin-top: 3rem; } h2 small { font-weight: normal; opacity: .7; }
h3 { margin-bottom: .2rem; } p { max-width: 46rem; overflow: auto hidden; }
math { font-size: 1.15rem; }
.equation { display: flex; align-items: center; gap: 1rem; padding: .15rem 0 .15rem 1rem; max-width: 46rem; }
.equation div { flex: 1; overflow: auto hidden; padding-bottom: .2rem; }
.equation:target, .op:target { background: #fd08; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
details { min-width: 0; } summary { cursor: pointer; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.35; max-height: 36rem; }
"""


def page(chapters):
    """chapters: {module: its ops}, as formulas.chapters() gives them."""
    known = {number for module in chapters for number in numbered(module)}
    body = [f"<h1>Formulas</h1>\n<nav>{''.join(contents(*item) for item in chapters.items())}</nav>"]
    body += [chapter(*item, known) for item in chapters.items()]
    return ('<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Formulas</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n")


def numbered(module):
    """The numbers of a module's equations: those at the end of a line of its docstring."""
    found = (FORMULA.match(line) for line in inspect.cleandoc(module.__doc__).splitlines())
    return [match[2] for match in found if match and match[2]]


def contents(module, functions):
    names = ", ".join(f'<a href="#{f.__name__}">{f.__name__}</a>' for f in functions)
    return f"<div><b>{title(module)}</b><br>{names}</div>"


def title(module):
    return module.__name__.split(".")[-1].replace("_", " ")


def path_of(module):
    return module.__name__.replace(".", "/") + ".py"


def kernels_of(module):
    """The files of the faster implementations that stand beside a module's."""
    file = Path(module.__file__)
    names = f"{file.stem}_cpu.py", f"{file.stem}.cu", f"{file.stem}_sm90.cu"
    return [path for path in map(file.with_name, names) if path.exists()]


def who(kernel):
    """Whom the implementation in this file is for."""
    hopper = ", with the instructions of Hopper alone" if kernel.stem.endswith("_sm90") else ""
    return f"For a GPU, CUDA C++{hopper}" if kernel.suffix == ".cu" else "For the CPU, compiled by Numba"


def chapter(module, functions, known):
    parts = [f"<h2>{title(module)} <small>{path_of(module)}</small></h2>",
             prose(inspect.cleandoc(module.__doc__), known, set())]
    parts += [entry(f, known) for f in functions]
    if kernels := kernels_of(module):
        parts.append('<div class="three">' + "".join(source(who(file), file.read_text(encoding="utf-8"), known)
                                                     for file in kernels) + "</div>")
    return "\n".join(parts)


def entry(f, known):
    """An op: how it is called, what it computes, and its formulas as NumPy code."""
    sides = {"forward": f, "backward": f.formula} if isinstance(f, Op) else {"": f}
    parts = [f'<div class="op" id="{f.__name__}">'
             f"<h3><code>{html.escape(f.__name__ + str(inspect.signature(f.reference)))}</code></h3>"]
    for word, side in sides.items():
        if side.__doc__:
            first, *more = inspect.cleandoc(side.__doc__).split("\n\n", 1)
            formula, dot, text = first.partition(".  ")
            said = drawn(formula) if "=" in formula and "\n" not in formula else None
            said = f"{said}{'. ' if dot else ''} {linked(text, known)}" if said else linked(first, known)
            parts.append(f"<p>{word and f'<i>{word}</i> '}{said}</p>" + "".join(prose(t, known, set()) for t in more))
    texts = [inspect.getsource(g) for g in (f.reference, *([f.formula] if isinstance(f, Op) else []))]
    return "\n".join([*parts, source("The reference, for NumPy and CuPy", "\n".join(texts), known), "</div>"])


def source(what, text, known):
    return f"<details><summary>{what}</summary><pre>{linked(text, known)}</pre></details>"


def prose(text, known, seen):
    """A docstring: paragraphs, formulas, and lines that are to stay as they are."""
    parts, kind = [], ""
    for line in text.splitlines():
        found = FORMULA.match(line)
        formula = found and (found[2] or " = " in line or "<-" in line) and drawn(found[1])
        now = "" if not line.strip() else "formula" if formula else "as it is" if line.startswith("    ") else "text"
        if now == "formula":
            number = found[2]
            mark = f' id="{number}"' if number else ""
            link = f'<a href="#{number}">[{number}]</a>' if number else ""
            parts.append(f'<div class="equation"{mark}><div>{formula}</div>{link}</div>')
        elif now:
            opened = {"text": "<p>", "as it is": "<pre>"}[now]
            if now != kind:
                parts.append(opened)
            parts[-1] += ("" if parts[-1] == opened else "\n") + linked(line, known)
        kind = now
    return "\n".join(part + part[:1] + "/" + part[1:part.index(">") + 1] if part.startswith(("<p>", "<pre>")) else part
                     for part in parts)


def drawn(formula):
    """As MathML; None where it is not in the notation."""
    try:
        return mathml(formula)
    except Unreadable:
        return None


def linked(text, known):
    """Escaped, and every number that is known a link to the first of the equations that it names."""
    def link(match):
        first = match[1] + match[2]
        return f'<a href="#{first}">{match[0]}</a>' if first in known else match[0]
    return NUMBER.sub(link, html.escape(text, quote=False))
