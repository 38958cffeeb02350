"""The articles of a Wikipedia dump (pages-articles) as text to read, each with its title as the first line.

An article is a page of the main namespace that is no redirect; one without a text of its own is left out. Of its
markup mwparserfromhell makes a tree. Links and what is emphasised become their words; templates, tables, footnotes,
files, categories, links to other languages, comments, and headings with nothing under them go.

The XML is read as it comes and never held, so memory is that of a few articles. A dump has no DTD: a file that has one
is refused, before any entity of its own could grow.

Not here: what a template would have written, for which all templates and Lua were needed; formulas and source code.
"""
from collections import deque
from collections.abc import Iterable, Iterator, Set
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any
from xml.parsers import expat

import regex

from tok.base import refusal
from tok.processes import pool

BATCH, FEW = 1 << 18, 8            # characters of markup that a process gets at a time; batches not worth a process
HIDDEN = {"file", "image", "media", "category"}                # besides what the dump itself calls them
NUMBERS = {"6", "-2", "14"}                                    # of their namespaces
LANGUAGE = regex.compile("[a-z]{2,3}(-[a-z]+)*|simple")
UNREAD = set("ref references table gallery imagemap timeline graph math ce chem hiero score syntaxhighlight source "
             "style templatestyles templatedata includeonly indicator inputbox categorytree section mapframe "
             "maplink".split())
REDIRECT = regex.compile(r"\s*#[\p{L}\p{M}]+\s*:?\s*\[\[")      # in the language of the wiki, as the next one
SWITCH = regex.compile(r"__[\p{Lu}\p{Lo}\p{M}_]+__")           # __NOTOC__
HTML = "ref|div|span|small|big|br|p|b|i|u|center|font|table|tr|t[dh]|li|[ou]l|su[bp]"
TIDY = [(regex.compile(pattern), by) for pattern, by in (
    (rf"</?(?:{HTML})\b[^<>\n]*>|'{{2,}}|\[\[|\]\]", ""),        # what was never closed
    (r"(?m)^[ \t]*(?:\||\{\||\{\{|\}\}).*$", ""),              # or was closed by a template
    (r"[ \t\u00a0]+", " "),
    (r" [(\[][ ,;:/-]*[)\]]", ""),                             # round a template that is gone
    (r"(?m)^ | $", ""),
    (r"\n{3,}", "\n\n"))]


def articles(path: str, blocks: Iterable[tuple[bytes, int]], processes: int = 1) -> Iterator[tuple[str, int]]:
    """(text, bytes read for it) of each article, in the order of the dump, which comes as (bytes, bytes read)."""
    if not find_spec("mwparserfromhell"):
        raise refusal(path, "a Wikipedia dump, and no package that reads its markup", "mwparserfromhell",
                      "pip install mwparserfromhell")
    read = 0
    for text, size in stripped(batches(pages(path, blocks)), processes):
        read += size
        if text:
            yield text, read
            read = 0


def stripped(found: Iterator[tuple[set[str], list]], processes: int) -> Iterator[tuple[str, int]]:
    """(text or "", size) of the pages in batches, in order; by several processes if there is enough for them."""
    few = list(islice(found, FEW))
    if processes < 2 or len(few) < FEW:
        for batch in chain(few, found):
            yield from strip(*batch)
        return
    with pool(processes) as workers:
        begun = deque()
        for batch in chain(few, found):
            begun.append(workers.submit(strip, *batch))
            if len(begun) > 2 * processes:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()


def batches(found: Iterable[tuple[set[str], str, str, int]]) -> Iterator[tuple[set[str], list]]:
    """Pages in groups of about BATCH characters, each with the namespaces that are hidden."""
    group, length = [], 0
    for hidden, title, markup, size in found:
        group.append((title, markup, size))
        length += len(markup)
        if length >= BATCH:
            yield hidden, group
            group, length = [], 0
    if group:
        yield hidden, group


# --------------------------------------------------------------------------------------------------------- XML -> pages

def pages(path: str, blocks: Iterable[tuple[bytes, int]]) -> Iterator[tuple[set[str], str, str, int]]:
    """(hidden namespaces, title, markup, bytes read for it) of each article."""
    reader = Reader(path)
    for data, size in blocks:
        reader.parse(data)
        for title, markup in reader.take():
            yield reader.hidden, title, markup, size
            size = 0
    reader.parse(b"", True)


class Reader:
    """What expat calls while it reads a dump."""

    def __init__(self, path: str) -> None:
        self.path, self.hidden, self.found = path, set(HIDDEN), []
        self.page, self.root = {}, False
        self.words: list[str] | None = None                    # of what is being read, if it is wanted
        self.expat = expat.ParserCreate()
        self.expat.buffer_text = True
        self.expat.StartElementHandler, self.expat.EndElementHandler = self.start, self.end
        self.expat.CharacterDataHandler, self.expat.StartDoctypeDeclHandler = self.data, self.doctype

    def parse(self, data: bytes, last: bool = False) -> None:
        try:
            self.expat.Parse(data, last)
        except expat.ExpatError as e:
            raise refusal(self.path, f"XML that is damaged or ends too early ({e})", "a whole dump") from None

    def take(self) -> list[tuple[str, str]]:
        found, self.found = self.found, []
        return found

    def doctype(self, *_: object) -> None:
        raise refusal(self.path, "XML with a DTD", "a dump of MediaWiki, which has none")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.root and name != "mediawiki":
            raise refusal(self.path, f"XML that begins with <{name}>", "a dump of MediaWiki: <mediawiki>")
        self.root = True
        if name == "page":
            self.page = {}
        elif name == "redirect":
            self.page["redirect"] = True
        elif name in ("title", "ns", "text") or name == "namespace" and attributes.get("key") in NUMBERS:
            self.words = []

    def data(self, text: str) -> None:
        if self.words is not None:
            self.words.append(text)

    def end(self, name: str) -> None:
        if self.words is not None:
            text, self.words = "".join(self.words), None
            if name == "namespace":
                self.hidden.add(text.strip().lower())
            else:
                self.page[name] = text
        elif name == "page":
            page = {"title": "", "ns": "", "text": "", **self.page}
            if page["ns"].strip() == "0" and "redirect" not in page and not REDIRECT.match(page["text"]):
                self.found.append((page["title"], page["text"]))


# ------------------------------------------------------------------------------------------------------- markup -> text

def strip(hidden: Set[str], group: list[tuple[str, str, int]]) -> list[tuple[str, int]]:
    """(title and text, size) of each page of a group; "" for one that has no text."""
    found = ((title, plain(markup, hidden), size) for title, markup, size in group)
    return [(f"{title}\n{text}" if text else "", size) for title, text, size in found]


def plain(markup: str, hidden: Set[str] = frozenset(HIDDEN)) -> str:
    """The text of an article; none if the parser gives up on it."""
    import mwparserfromhell as mw  # takes a tenth of a second, for dumps alone
    try:
        code = mw.parse(SWITCH.sub("", markup))
    except mw.parser.ParserError:
        return ""
    prune(code, hidden)
    drop_empty_sections(code)
    text = code.strip_code()
    for pattern, by in TIDY:
        text = pattern.sub(by, text)
    return text.strip()


def prune(code: Any, hidden: Set[str]) -> None:
    """Take out what no reader sees, at every depth; <br> becomes the line break that it is."""
    from mwparserfromhell.nodes import Text
    kept = []
    for node in code.nodes:
        kind = type(node).__name__
        tag = str(node.tag).strip().lower() if kind == "Tag" else ""
        if kind in ("Template", "Comment") or tag in UNREAD:
            continue
        for child in node.__children__():
            prune(child, hidden)
        if kind != "Wikilink" or not is_hidden(node, hidden):
            kept.append(Text("\n") if tag == "br" else node)
    code.nodes = kept


def is_hidden(link: Any, hidden: Set[str]) -> bool:
    """Is it a picture, a category, or a link to another language? Only pictures have a second bar."""
    space, colon, _ = str(link.title).partition(":")
    space = space.strip()                                # none in [[:Category:X]], which shows
    return bool(space and colon and (space.lower() in hidden or LANGUAGE.fullmatch(space)
                                     or "|" in str(link.text or "")))


def drop_empty_sections(code: Any) -> None:
    """Take out headings that nothing follows before the next heading of their own or of a higher level."""
    kept, below = [], 0                                  # the level of what follows: 0 nothing, 7 text
    for node in reversed(code.nodes):
        if type(node).__name__ == "Heading":
            if below <= node.level:
                continue
            below = node.level
        elif str(node).strip(" \n*#:;"):
            below = 7
        kept.append(node)
    code.nodes = kept[::-1]
