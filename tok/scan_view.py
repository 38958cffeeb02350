"""A scanned stanza as a reader of verse would mark it: under each akshara ऽ if it is heavy and । if it is light.

    मं ग ल  भ व न  अ मं ग ल  हा री      16
    ऽ  । ।  । । ।  । ऽ  । ।  ऽ  ऽ
    द्र व उ  सु द स र थ  अ जि र  बि हा री    16
    । । ।  । । । । ।  । । ।  । ऽ  ऽ
    chaupai (चौपाई), score 1.00

No two terminals agree how wide Devanagari is. So on a terminal every akshara is placed at its column by an escape
sequence, and there is colour; elsewhere spaces have to do. An HTML page needs neither: marks sit on their aksharas, and
to point at one is to be told the rule that weighs it.
"""
import html
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby

from tok.meter import Verdict, meter
from tok.scansion import scan

MARKS = {"L": "।", "G": "ऽ", ".": " "}
LIGHT, HEAVY, BENT, FAULT, PLAIN = "\033[36m", "\033[1;33m", "\033[1;35m", "\033[31m", "\033[0m"
STYLE = """body { font: 1.3em/2.4 "Noto Sans Devanagari", sans-serif; margin: 2em; } ruby { margin: 0 .12em; }
rt { font-size: .7em; color: #2a7f9e; } .heavy rt { color: #c77700; font-weight: bold; } .bent rt { color: #b0208a; }
.word { margin-right: .8em; white-space: nowrap; } .count { color: #777; } .fault { color: #c00; font-size: .8em; }
.form { font-size: .8em; color: #555; border-bottom: 1px solid #ccc; margin-bottom: 1.5em; }
.pause { color: #bbb; margin-right: .8em; }"""


def lines_of(verdict: Verdict) -> Iterator[list]:
    """For each line its padas, each a (pada, words), each word a list of (akshara, mark, does a licence bend it?)."""
    for _, padas in groupby(verdict.padas, lambda pada: pada.line):
        line = []
        for pada in padas:
            marked = [(akshara, mark, ".LG".index(mark) != akshara.weight)
                      for akshara, mark in zip(scan(pada.text), pada.reading)]
            line.append((pada, [list(word) for _, word in groupby(marked, lambda entry: entry[0].word)]))
        yield line


def summary(verdict: Verdict) -> str:
    """One line: the form, and how sure."""
    if verdict.nearest is None:
        return "no form"
    name = f"{verdict.nearest.name} ({verdict.nearest.hindi}), score {verdict.score:.2f}"
    licence = f"; {verdict.nearest.licence}" if verdict.nearest.licence else ""
    return (name if verdict.form else f"no form; nearest is {name}") + licence


def counts(line: list) -> str:
    """13 + 11; where a pada fits in no way, all that it could count."""
    return " + ".join(str(pada.wanted) if pada.wanted in pada.counts else "/".join(map(str, pada.counts))
                      for pada, _ in line)


def in_text(stanza: str, rules: str = "S2", terminal: bool = False) -> str:
    """The stanza drawn in characters; in colour and by columns for a terminal."""
    verdict, drawn = meter(stanza, rules), []
    for line in lines_of(verdict):
        top, bottom, column = "", "", 1
        for k, (_, words) in enumerate(line):
            for n, word in enumerate(words):
                if n == 0 and k:
                    top, bottom = _put(top, "|", column, 3, "", terminal), bottom + "   " * (not terminal)
                    column += 3
                for akshara, mark, bent in word:
                    width = _width(akshara.text) + 1 + (akshara is word[-1][0])
                    colour = (BENT if bent else HEAVY if mark == "G" else LIGHT) if terminal else ""
                    top = _put(top, akshara.text, column, width, "", terminal)
                    bottom = _put(bottom, MARKS[mark], column, width, colour, terminal)
                    column += width
        drawn += [_put(top, counts(line), column, 0, "", terminal), bottom.rstrip()]
    drawn += [f"{FAULT}{fault}{PLAIN}" if terminal else fault for fault in verdict.faults]
    return "\n".join([*drawn, summary(verdict)])


def _put(row, text, column, width, colour, terminal):
    """The row with a text at a column, which is reached by an escape sequence on a terminal."""
    if terminal:
        return f"{row}\033[{column}G{colour}{text}{PLAIN if colour else ''}"
    return row + text + " " * (width - _width(text))


def _width(text):
    """Columns that a text takes at most: signs above and below a letter take none."""
    return sum(unicodedata.category(c) not in ("Mn", "Cf") for c in text)


def in_html(stanzas: Iterable[str], rules: str = "S2") -> str:
    """A page of its own with all stanzas."""
    return page(rules, [stanza_in_html(stanza, rules) for stanza in stanzas])


def page(title: str, body: Iterable[str]) -> str:
    """A page with these pieces of HTML."""
    return (f'<!DOCTYPE html>\n<html lang="hi"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n")


def stanza_in_html(stanza: str, rules: str = "S2") -> str:
    """One stanza, as a piece of a page."""
    verdict, body = meter(stanza, rules), []
    for line in lines_of(verdict):
        padas = '<span class="pause">|</span>'.join("".join(map(_word, words)) for _, words in line)
        body.append(f'<div>{padas}<span class="count">{counts(line)}</span></div>')
    body += [f'<div class="fault">{html.escape(fault)}</div>' for fault in verdict.faults]
    return "\n".join([*body, f'<div class="form">{html.escape(summary(verdict))}</div>'])


def _word(word):
    marked = []
    for akshara, mark, bent in word:
        kind = "bent" if bent else "heavy" if mark == "G" else "light"
        why = html.escape(akshara.rule + ("; a licence bends it" if bent else ""))
        marked.append(f'<ruby class="{kind}" title="{why}">{akshara.text}<rt>{MARKS[mark].strip()}</rt></ruby>')
    return f'<span class="word">{"".join(marked)}</span>'
