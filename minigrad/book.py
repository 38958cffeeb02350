"""The book of formulas as one page that needs nothing else: no script, no font, no network.

An indented line of a docstring is a formula if it has a number at its end or says what something is; typeset.py draws
it. A number is a link to its equation wherever it stands, in the text and in the sources of all implementations; beside
the equation stand links back, to the first line of each source that computes it. What an op costs and how exact its
gradient is comes from outside (Book); a person who only reads needs no script for any of it.
"""
import html
import inspect
import re
from pathlib import Path
from typing import NamedTuple

from minigrad.tensor import Op
from minigrad.typeset import Unreadable, mathml

NUMBER = re.compile(r"\[([A-Z]{2})(\d+)((?:[-,]\d+)*)\]")
FORMULA = re.compile(r" {4,}(\S.*?)(?: +\[([A-Z]{2}\d+)\])?$")
STYLE = """
:root { color-scheme: light dark; --good: #2c9a4b; --bad: #d8383a; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: auto; padding: 1rem; overflow-wrap: break-word; }
nav { columns: 14rem; } nav div { break-inside: avoid; margin-bottom: .5rem; }
h2 { border-top: 1px solid; padding-top: 1rem; margin-top: 3rem; } h2 small { font-weight: normal; opacity: .7; }
h3 { margin: 2.2rem 0 .2rem; overflow-wrap: anywhere; } p { max-width: 46rem; overflow: auto hidden; }
math { font-size: 1.15rem; }
.equation { display: flex; align-items: center; gap: .7rem; padding: .15rem 0 .15rem 1rem; max-width: 46rem; }
.equation div { flex: 1; overflow: auto hidden; padding-bottom: .2rem; }
.equation small { white-space: nowrap; } .equation small a { opacity: .75; text-decoration: none; }
:target { background: #fd08; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.three:has([open]) { grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }
details { min-width: 0; } summary { cursor: pointer; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.35; max-height: 36rem; }
.good summary, .good { color: var(--good); } .bad summary, .bad { color: var(--bad); font-weight: bold; }
details table { color: CanvasText; font-weight: normal; }
.wide { overflow-x: auto; max-width: 100%; margin: .4rem 0; }
table { border-collapse: collapse; font-size: .9rem; } .wide math { font-size: 1rem; }
td, th { padding: .1rem 1.2rem .1rem 0; white-space: nowrap; text-align: left; }
th { font-weight: normal; opacity: .75; }
@media (max-width: 40rem) {
    td, th { padding-right: .6rem; } table, .wide math { font-size: .8rem; }
    .equation { padding-left: 0; margin-bottom: .6rem; flex-wrap: wrap; gap: 0 .7rem; }
    .equation div { flex: 1 1 100%; }
}
"""
LABELS = {"": "NumPy", "_cpu.py": "Numba", ".cu": "CUDA", "_sm90.cu": "Hopper"}


class Fact(NamedTuple):
    """What is known of an op. operations, moved: (formula, number) for every phase; seconds: {who: by phase}, or {}."""
    phases: tuple
    operations: list
    moved: list
    errors: list       # (case, {implementation: largest relative error of its gradients}); None without a gradient
    limit: float       # of an error
    seconds: dict

    @property
    def right(self):
        """Was the gradient checked, and close enough everywhere? NaN is not."""
        return self.errors is None or bool(self.errors) and all(
            error <= self.limit for _, found in self.errors for error in found.values())


class Book(NamedTuple):
    """{op: Fact}, and a sentence about the machine and the sizes."""
    facts: dict
    said: str


def page(chapters, measured):
    """chapters: {module: its ops}, as formulas.chapters() gives them. measured: a Book, with a Fact for all of them."""
    known = {number for module in chapters for number in numbered(module)}
    names = [f.__name__ for functions in chapters.values() for f in functions]
    body = [f"<h1>Formulas</h1>\n{summary(names, measured)}",
            f"<nav>{''.join(contents(*item) for item in chapters.items())}</nav>"]
    body += [chapter(*item, known, measured.facts) for item in chapters.items()]
    return ('<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Formulas</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n")


def summary(names, measured):
    """How many gradients were checked, what is wrong or missing, and what all numbers are about."""
    checked = [fact.errors for fact in measured.facts.values() if fact.errors]
    wrong, missing = not_right(measured), [name for name in names if name not in measured.facts]
    says = [f"{sum(map(len, checked))} cases of {len(checked)} ops: every gradient agrees with central differences."
            if not wrong else f"The gradient is wrong, or was not checked, of: {', '.join(wrong)}."]
    if missing:
        says.append(f"Nothing is known of: {', '.join(missing)}.")
    mark = "bad" if wrong or missing else "good"
    return f'<p class="{mark}">{html.escape(" ".join(says))}</p><p>{html.escape(measured.said)}</p>'


def not_right(measured):
    return [name for name, fact in measured.facts.items() if not fact.right]


def numbered(module):
    """The numbers of a module's equations: those at the end of a line of its docstring."""
    found = (FORMULA.match(line) for line in inspect.cleandoc(module.__doc__).splitlines())
    return [match[2] for match in found if match and match[2]]


def named(match):
    """The numbers that a citation means: [LN3-5] and [LN3,5]."""
    prefix, found = match[1], []
    for part in (match[2] + match[3]).split(","):
        first, last = (part.split("-") * 2)[:2]
        found += [f"{prefix}{n}" for n in range(int(first), int(last) + 1)]
    return found


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


def chapter(module, functions, known, facts):
    """A file. One that derives something shows its whole reference beside the kernels, else each op shows its own."""
    about, cited = inspect.cleandoc(module.__doc__), {}
    derives = bool(numbered(module)) or ".fused." in module.__name__
    sources = [("The reference, for NumPy and CuPy", "NumPy", code_of(module))] if derives else []
    for file in kernels_of(module):
        label = LABELS[file.name.removeprefix(module.__name__.split(".")[-1])]
        sources.append((who(file), label, file.read_text(encoding="utf-8")))
    drawn_sources = "".join(source(what, text, known, label, cited) for what, label, text in sources)
    parts = [f"<h2>{title(module)} <small>{path_of(module)}</small></h2>", prose(about, known, cited)]
    parts += [entry(f, known, facts.get(f.__name__), not derives) for f in functions]
    if sources:
        parts.append(f'<div class="three">{drawn_sources}</div>')
    return "\n".join(parts)


def code_of(module):
    """The text of a module behind its docstring."""
    text = inspect.getsource(module)
    return text[text.index('"""', text.index('"""') + 3) + 3:].lstrip("\n")


def entry(f, known, fact, with_source):
    """An op: how it is called, what it computes, what is known of it, and its formulas as NumPy code."""
    sides = {"forward": f, "backward": f.formula} if isinstance(f, Op) else {"": f}
    parts = [f'<div class="op" id="{f.__name__}">'
             f"<h3><code>{html.escape(f.__name__ + str(inspect.signature(f.reference)))}</code></h3>"]
    for word, side in sides.items():
        if side.__doc__:
            first, *more = inspect.cleandoc(side.__doc__).split("\n\n", 1)
            formula, mark, text = re.match(r"(.*?)(\.  |: |$)(.*)", first, re.S).groups()
            is_formula = "=" in formula and "\n" not in formula
            parted = [is_formula and drawn(part) for part in formula.split(",  ")]       # so that lines can break there
            said = ", ".join(parted) if all(parted) else None
            said = f"{said}{mark.strip()} {linked(text, known)}" if said else linked(first, known)
            parts.append(f"<p>{word and f'<i>{word}</i> '}{said}</p>" + "".join(prose(t, known, {}) for t in more))
    parts.append(checked(fact) + costs(fact) if fact else '<p class="bad">Nothing is known of this op.</p>')
    if with_source:
        texts = [inspect.getsource(g) for g in (f.reference, *([f.formula] if isinstance(f, Op) else []))]
        parts.append(source("The reference, for NumPy and CuPy", "\n".join(texts), known))
    return "\n".join([*parts, "</div>"])


def checked(fact):
    """How far the gradients are from central differences, case by case."""
    if fact.errors is None:
        return "<p>A function without a gradient.</p>"
    if not fact.errors:
        return '<p class="bad">No case in tests/opcases.py: the gradient was not checked.</p>'
    columns = list({who: 0 for _, found in fact.errors for who in found})
    rows = [[html.escape(case), *(f"{found[who]:.1e}" if who in found else "" for who in columns)]
            for case, found in fact.errors]
    errors = [error for _, found in fact.errors for error in found.values()]
    worst = max(errors, key=lambda error: (error != error, error))
    says = (f"✓ gradient = central differences in {len(fact.errors)} cases; largest relative error {worst:.1e}"
            if fact.right else f"✗ gradient wrong: relative error {worst:.1e}, where {fact.limit:.0e} is the limit")
    head = ["", *({"reference": "NumPy", "cpu": "Numba"}.get(who, html.escape(who)) for who in columns)]
    mark = "good" if fact.right else "bad"
    return f'<details class="{mark}"><summary>{says}</summary>{table([head, *rows])}</details>'


def costs(fact):
    """Operations, bytes and times, phase by phase."""
    def amount(formula, number):
        return f"{drawn(formula)} = {short(number)}" if formula else "none"
    rows = [["", *fact.phases], ["operations", *(amount(*pair) for pair in fact.operations)],
            ["bytes", *(amount(*pair) for pair in fact.moved)]]
    rows += [[name, *(f"{1e3 * s:.3f} ms" if s else "none" for s in seconds)] for name, seconds in fact.seconds.items()]
    return table(rows)


def table(rows):
    """Each row's first cell says what the row is about; too wide a table scrolls by itself."""
    lines = (f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, *cells in rows)
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def short(number):
    """1,234,567 as 1.23 M."""
    for power, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= power:
            return f"{number / power:.3g}{letter}"
    return f"{number:g}"


def source(what, text, known, label="", cited=None):
    """A text that opens at a click. cited: {number: [(label, anchor)]} gets the first place of each number in it."""
    return f"<details><summary>{what}</summary><pre>{linked(text, known, label, cited)}</pre></details>"


def prose(text, known, cited):
    """A docstring: paragraphs, formulas with links to the code that computes them, and lines that stay as they are."""
    parts, kind = [], ""
    for line in text.splitlines():
        found = FORMULA.match(line)
        formula = found and (found[2] or " = " in line or "<-" in line) and drawn(found[1])
        now = "" if not line.strip() else "formula" if formula else "as it is" if line.startswith("    ") else "text"
        if now == "formula":
            number = found[2]
            mark = f' id="{number}"' if number else ""
            link = f'<a href="#{number}">[{number}]</a>' if number else ""
            if number in cited:
                places = " ".join(f'<a href="#{at}">{label}</a>' for label, at in cited[number])
                link += f"<small>{places}</small>"
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


def linked(text, known, label="", cited=None):
    """Escaped, and every number that is known a link to the first of the equations that it names; see source()."""
    seen = set()

    def link(match):
        numbers = [number for number in named(match) if number in known]
        marks = ""
        for number in numbers if cited is not None else ():
            if number not in seen:
                seen.add(number)
                cited.setdefault(number, []).append((label, f"{number}_{label}"))
                marks += f'<span id="{number}_{label}"></span>'
        return f'{marks}<a href="#{numbers[0]}">{match[0]}</a>' if numbers else match[0]
    return NUMBER.sub(link, html.escape(text, quote=False))
