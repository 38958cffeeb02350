"""Dumps of Wikipedia: which pages are articles, what is left of their markup, and what is refused."""
import bz2
import gzip
import time
from unittest import mock
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tok import corpus, wiki
from tok.corpus import Files

mwparserfromhell = pytest.importorskip("mwparserfromhell")
SITE = """<siteinfo><sitename>विकिपीडिया</sitename><namespaces>
<namespace key="-2">मीडिया</namespace><namespace key="0" /><namespace key="4">विकिपीडिया</namespace>
<namespace key="6">चित्र</namespace><namespace key="14">श्रेणी</namespace></namespaces></siteinfo>"""
RAM = """{{Infobox person
| name = राम
| wife = {{nested|{{deeper|x}}}}
}}
[[चित्र:Ram.jpg|thumb|200px|चित्र का [[शीर्षक|लेख]]]]
'''राम''' ({{lang-en|Ram}}) [[अयोध्या|अयोध्या नगर]] के राजा थे।<ref>{{cite}}</ref>\
<ref name=x /> पिता [[दशरथ]] थे।<!-- न -->
{| class="wikitable"
! क !! ख
|-
| 1 || {|
| भीतर
|}
|}
== जीवन ==
पहला<br />दूसरा&nbsp;शब्द, a &lt; b, ''तिरछा'' [http://x.org लेबल]
* एक
* दो
=== खाली ===
{{x}}
<gallery>
File:a.jpg
</gallery>
== सन्दर्भ ==
{{reflist}}
__NOTOC__
[[श्रेणी:राजा]]
[[en:Rama]]"""
READ = """राम
राम अयोध्या नगर के राजा थे। पिता दशरथ थे।

जीवन
पहला
दूसरा शब्द, a < b, तिरछा लेबल
एक
दो"""


def page(title, text, ns=0, extra=""):
    return (f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>1</id>{extra}<revision><id>2</id><contributor>"
            f"<username>u</username></contributor><comment>text</comment><text bytes='1' xml:space='preserve'>"
            f"{escape(text)}</text></revision></page>\n")


def dump(*pages):
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">{SITE}{"".join(pages)}</mediawiki>'


def write(path, text):
    path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)(text.encode()))
    return str(path)


PAGES = [page("राम", RAM), page("रामचन्द्र", "#REDIRECT [[राम]]", extra='<redirect title="राम" />'),
         page("राघव", "देखें राम", extra='<redirect title="राम" />'), page("रघु", "#पुनर्प्रेषित [[राम]]"),
         page("वार्ता:राम", "बातचीत", ns=1), page("साँचा:x", "y", ns=10),
         page("ठूँठ", "{{आधार}}\n[[श्रेणी:राजा]]\n== सन्दर्भ ==\n"),
         page("A & B", "AT&T is <b>big</b>.")]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2", "a.xml.gz"])
def test_articles_are_pages_with_a_text_of_their_own(tmp_path, name):
    path = write(tmp_path / name, dump(*PAGES))
    assert list(Files(path)) == list(Files(tmp_path)) == [READ, "A & B\nAT&T is big."]


def test_a_dump_of_many_streams(tmp_path):
    """Each hundred pages of a multistream dump are a .bz2 of their own."""
    data = dump(*PAGES).encode()
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(bz2.compress(data[i:i + 1000]) for i in range(0, len(data), 1000)))
    assert list(Files(tmp_path)) == [READ, "A & B\nAT&T is big."]


@given(st.integers(1, 300), st.integers(1, 3000))
@settings(max_examples=30)
def test_nobody_notices_where_the_dump_was_cut(tmp_path_factory, piece, batch):
    path = write(tmp_path_factory.mktemp("wiki") / "a.xml", dump(*PAGES))
    with mock.patch.object(corpus, "PIECE", piece), mock.patch.object(wiki, "BATCH", batch):
        found = list(corpus.pieces(corpus.Part(path)))
    assert [text for text, _ in found] == [READ, "A & B\nAT&T is big."]


def test_several_processes_keep_the_order(tmp_path, monkeypatch):
    pages = [page(f"लेख {i}", f"यह '''{i}''' है। " * (1 + i % 7)) for i in range(300)]
    path = write(tmp_path / "a.xml", dump(*pages))
    monkeypatch.setattr(wiki, "BATCH", 500)
    alone, together = list(Files(path)), list(Files(path, processes=2))
    assert alone == together and len(alone) == 300 and alone[7].startswith("लेख 7\nयह 7 है।")
    assert sum(size for _, size in corpus.pieces(corpus.Part(path))) == (tmp_path / "a.xml").stat().st_size
    half = iter(Files(path, processes=2))
    assert next(half) == alone[0]
    half.close()                                             # nobody waits for the rest


def test_processes_are_given_no_more_than_they_can_do():
    taken = []

    def found():
        for i in range(100):
            taken.append(i)
            yield set(), [(f"{i}", "शब्द", 1)]
    texts = wiki.stripped(found(), 2)
    assert [next(texts)[0] for _ in range(9)] == [f"{i}\nशब्द" for i in range(9)]
    texts.close()
    assert len(taken) == 9 + 2 * 2


def test_memory_is_that_of_a_few_articles(tmp_path):
    """The XML is taken no further than the articles that are asked for."""
    path, blocks = write(tmp_path / "a.xml", dump(*[page(f"{i}", "शब्द " * 2000) for i in range(200)])), []
    with mock.patch.object(corpus, "PIECE", 10_000):
        def counted(part, real=corpus._blocks):
            for block in real(part):
                blocks.append(len(block[0]))
                yield block
        with mock.patch.object(corpus, "_blocks", counted), mock.patch.object(wiki, "BATCH", 10_000):
            next(corpus.pieces(corpus.Part(path)))
    assert sum(blocks) < 600_000 < 2_000_000 < (tmp_path / "a.xml").stat().st_size


@pytest.mark.parametrize(("markup", "text"), [
    ("[[a|b [[c]] d]]", "b c d"),
    ("[[:Category:X|label]] [[w:X|Y]] [[Help:X|Z]]", "label Y Z"),
    ("[[ चित्र : a.jpg |thumb]]x", "x"),
    ("[[छवि:a.jpg|thumb|an alias that the dump does not say]]x", "x"),
    ("[[zh-min-nan:x]][[simple:y]]a", "a"),
    ("f(x) and (a) but ( ; )not", "f(x) and (a) butnot"),
    ("main() __init__ __NOTOC__ __विषयसूची_नहीं__", "main() __init__"),
    ("{{unclosed\n| a = b\nकविता", "कविता"),
    ("{| unclosed\n| a\n|-\nकविता", "कविता"),
    ("a<ref>unclosed", "aunclosed"),
    ("<div style='x'>\na\n</div>\n<span>b</span></div>", "a\nb"),
    ("a <math>x^2</math> b<syntaxhighlight lang=c>int</syntaxhighlight>", "a b"),
    ("== A ==\n=== B ===\n== C ==\nc\n=== D ===\n== E ==\n* <ref>x</ref>", "C\nc"),
    ("== A ==\n=== B ===\nb", "A\nB\nb"),
    ("<div>[[File:a.jpg|thumb|x]]b<ref>c</ref>''[[Category:d]]e''</div>", "be"),
    ("a\n\n\n\n\nb", "a\n\nb"),
    ("&amp;nbsp; &#2309;", "&nbsp; अ"),
])
def test_markup(markup, text):
    assert wiki.plain(markup, wiki.HIDDEN | {"चित्र"}) == text


@given(st.lists(st.sampled_from(["[[", "]]", "{{", "}}", "|", "{|", "|}", "\n", "== ", " ==", "<ref>", "</ref>", "'''",
                                 "<br>", "राम", "File:", "a", "<!--", "-->", "* ", "<", "&", "-{"]),
                max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_markup_has_some_text(markup):
    text = wiki.plain(markup)
    assert isinstance(text, str) and text == text.strip() and "\n\n\n" not in text


def test_an_article_that_the_parser_gives_up_on_is_left_out(tmp_path):
    path = write(tmp_path / "a.xml", dump(*PAGES))
    with mock.patch.object(mwparserfromhell, "parse", side_effect=mwparserfromhell.parser.ParserError("a bug")):
        assert list(Files(path)) == []


BOMB = ('<?xml version="1.0"?><!DOCTYPE mediawiki [<!ENTITY a0 "ha">'
        + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 50}">' for i in range(1, 9)) + "]><mediawiki>&a8;</mediawiki>")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("a.xml", BOMB.encode(), "a.xml: got XML with a DTD; expected a dump"),
    ("a.xml", b'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]><m>&x;</m>', "XML with a DTD"),
    ("a.xml", b"<html></html>", "begins with <html>; expected a dump of MediaWiki"),
    ("a.xml", b"", "damaged or ends too early"),
    ("a.xml", b"<mediawiki><page>\xff</page></mediawiki>", "damaged or ends too early"),
    ("a.xml", dump(*PAGES).encode()[:-500], "damaged or ends too early"),
    ("a.xml", dump("<page>&undefined;</page>").encode(), "damaged or ends too early"),
    ("a.xml.bz2", bz2.compress(dump(*PAGES).encode())[:-100], "a damaged .bz2"),
    ("a.xml.bz2", bz2.compress(dump(*PAGES).encode()[:900]), "damaged or ends too early"),     # between two streams
    ("a.xml.bz2", b"no bzip2", "a.xml.bz2: got a damaged .bz2"),
])
def test_what_is_no_whole_dump(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=says):
        list(Files(tmp_path))
    assert time.perf_counter() - began < 5


def test_without_the_package(tmp_path, monkeypatch):
    path = write(tmp_path / "a.xml", dump(*PAGES))
    monkeypatch.setattr(wiki, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Hint: pip install mwparserfromhell$"):
        list(Files(path))
