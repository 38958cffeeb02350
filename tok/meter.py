"""Which meter is a stanza in, and where does it break it?

A meter is a table of lines. A line is made of parts (padas) with a pause (yati) between them, at the end of a word; a
part has a count and an ending. Matrik meters count matras:

    chaupai   16                                   does not end GL
    doha      13, ends LG or LLL  |  11, ends GL   the lines rhyme
    sortha    11, ends GL  |  13                   the same the other way round: the lines rhyme at the pause

Varnik meters count aksharas, light and heavy alike: a ghanakshari has 31, 16 | 15. Or they say of each how much it
weighs: mattagayand, one of the savaiyas, is GLL seven times, then GG. FORMS holds them all. The last akshara of a pada
in a Sanskrit meter may be light (padante va), so it is x there. What of Sanskrit is not modelled: that a conjunct which
begins the next word makes a light last akshara heavy, that a vowel may stay light before pra and hra, a pause inside a
compound, as words that are written in one are not cut. A pause is the end of a word and nothing else: a comma is
neither asked for nor in the way.

A rule set lets a line be read in several ways (scansion.py), and only some of them may suit its meter. So a line is
read akshara by akshara, in all ways at once. Of how it was read up to a point nothing matters for the rest but the
place that was reached: (part, count within it, its last few weights). Of the readings that reach the same place the one
that strains fewest aksharas is kept; there are at most some dozens.

    the start       {(0, 0, "")}
    an akshara      takes (part, n, tail) to (part, n + weight, tail + L or G) for each weight that it may have, if from
                    there the part can still end, and this is no weight that the meter forbids there
    a word's end    adds (part + 1, 0, "") for each (part, n, tail) with a count and a tail that end the part
    the line fits   if (number of parts, 0, "") is among the places after its last word

Line keeps the places between calls, so the same machine serves who reads a line and who writes one.

`meter` tries all forms that the counts allow, and names the best one if three quarters of its lines fit and half of its
rhymes are there. A line that ends in the same word as the one that it should rhyme with has that fault, and keeps the
name of its meter: so Kabir ends two lines in कोय. One line alone is not named, for nearly any number of matras is the
count of some form.
"""
import re
from functools import cache, lru_cache
from itertools import accumulate
from typing import NamedTuple

from tok import scansion
from tok.scansion import ASPIRATES, AVAGRAHA, HALANT, RULES, matras, pattern, readings, tuk, word_readings, words

END, MARK = re.compile(r"[।॥|\n]+"), re.compile(r"[।॥|\n?!]+")       # ends a line; or may do so
PAUSE = re.compile("[,;—–?!]+")


class Part(NamedTuple):
    """What stands between two pauses of a line."""

    counts: tuple                                        # how many matras or aksharas: usual first, then by licence
    ends: tuple = ("",)                                  # it ends with one of these
    feet: str = ""                                       # what every akshara weighs: L, G, or x for either
    opens_freely: bool = True                            # or its first word may not be a jagan, LGL


class Form(NamedTuple):
    """A meter: its lines, and which of them rhyme."""

    name: str
    hindi: str
    lines: tuple                                         # of tuples of Parts; a stanza repeats them
    unit: str = "matras"
    rhyme: int | None = -1                               # the part at the end of which lines rhyme
    together: int = 2                                    # how many lines share a rhyme
    licence: str = ""                                    # what it allows that the form of this name before it does not
    rules: str = ""                                      # the rule set of this meter, if it has one of its own


def _part(text):
    """A Part from "13 LG LLL", "13/12 LG", "~13 LG" (~: no jagan first) or the feet "GLL GLL GG"."""
    first, *rest = text.removeprefix("~").split()
    if first[0] in "LGx":
        feet = "".join([first, *rest])
        return Part((len(feet),), feet=feet)
    return Part(tuple(map(int, first.split("/"))), tuple(rest) or ("",), opens_freely=text[0] != "~")


def _form(name, hindi, lines, unit="matras", **more):
    """A Form from lines like "13 LG | 11 GL", one text for each line."""
    return Form(name, hindi, tuple(tuple(map(_part, re.split(r" *\| *", line))) for line in lines), unit, **more)


def _savaiya(name, hindi, feet):
    return _form(name, hindi, [feet], "aksharas", together=4, rules="savaiya")


def _sanskrit(name, hindi, *lines, rhyme=None):
    return _form(name, hindi, lines, "aksharas", rhyme=rhyme, rules="S0")


DOHA, ROLA, ULLALA = "~13 LG LLL | 11 GL", "11 GL LLL | 13 GG LG LL", "15 LG LLL | 13 LG LLL"
FORMS = [                                                # of those that fit a stanza equally well the first one counts
    _savaiya("madira", "मदिरा सवैया", "GLL" * 7 + "G"),
    _savaiya("mattagayand", "मत्तगयंद सवैया", "GLL" * 7 + "GG"),
    _savaiya("kirit", "किरीट सवैया", "GLL" * 8),
    _savaiya("arsat", "अरसात सवैया", "GLL" * 7 + "GLG"),
    _savaiya("durmil", "दुर्मिल सवैया", "LLG" * 8),
    _savaiya("sundari", "सुंदरी सवैया", "LLG" * 8 + "G"),
    _savaiya("sumukhi", "सुमुखी सवैया", "LGL" * 7 + "LG"),
    _savaiya("muktahara", "मुक्तहरा सवैया", "LGL" * 8),
    _sanskrit("totak", "तोटक", "LLG" * 3 + "LLx", rhyme=-1),
    _sanskrit("bhujangprayat", "भुजंगप्रयात", "LGG" * 3 + "LGx", rhyme=-1),
    _sanskrit("anushtubh", "अनुष्टुभ्", "xxxxLGGx | xxxxLGLx"),
    _sanskrit("upajati", "उपजाति", "xGLGGLLGLGx"),
    _sanskrit("vasantatilaka", "वसंततिलका", "GGLGLLLGLLGLGx"),
    _sanskrit("malini", "मालिनी", "LLLLLLGG | GLGGLGx"),
    _sanskrit("shardulavikridita", "शार्दूलविक्रीडित", "GGGLLGLGLLLG | GGLGGLx"),
    _form("manaharan", "मनहरण घनाक्षरी", ["16 | 15 G"], "aksharas", together=4),
    _form("rup ghanakshari", "रूप घनाक्षरी", ["16 | 16 L"], "aksharas", together=4),
    _form("dev ghanakshari", "देव घनाक्षरी", ["8 | 8 | 8 | 9 LLL"], "aksharas", together=4),
    _form("kundaliya", "कुंडलिया", [DOHA] * 2 + [ROLA] * 4),
    _form("chhappay", "छप्पय", [ROLA] * 4 + [ULLALA] * 2),
    _form("chaupai", "चौपाई", ["~16 GG LG LL"]),
    _form("doha", "दोहा", [DOHA]),
    _form("doha", "दोहा", ["~13/12 | 11 GL"], licence="12 matras before the pause, as Tulsi and Jayasi write it"),
    _form("sortha", "सोरठा", ["11 GL | 13 LG LLL"], rhyme=0),
    _form("rola", "रोला", [ROLA]),
    _form("barvai", "बरवै", ["12 | 7 GL"]),
    _form("tomar", "तोमर", ["12 GL"]),
    _form("jaykari", "जयकरी", ["15 GL"]),
    _form("rupmala", "रूपमाला", ["14 | 10 GL"]),
    _form("gitika", "गीतिका", ["14 | 12 LG"]),
    _form("harigitika", "हरिगीतिका", ["28 LG"]),
    _form("sar", "सार", ["16 | 12 GG"]),
    _form("chavpaiya", "चवपैया", ["10 | 8 | 12 GG"]),
    _form("tatank", "ताटंक", ["16 | 14 GGG"]),
    _form("kukubh", "ककुभ", ["16 | 14 GG"]),
    _form("lavani", "लावनी", ["16 | 14"]),
    _form("veer", "वीर", ["16 | 15 GL"]),
    _form("tribhangi", "त्रिभंगी", ["10 | 8 | 8 | 6 G"]),
    _form("saman savaiya", "समान सवैया", ["16 | 16"]),
]


class State(NamedTuple):
    """How far a line has come."""

    text: str                                            # all of it, in NFC
    settled: int                                         # how much of it no later character can change
    places: dict                                         # (part, count, tail) -> (aksharas strained, reading so far)


class Line:
    """One line of a form under a rule set, as a machine that is fed text: in pieces of any size, or at once.

    line: which of the form's lines, where it has several.    rhyme: the line, or its part, that this one rhymes with.

        line = Line("chaupai")
        state = line.feed(line.start, "मंगल भवन अमं")       None would mean: nothing that begins like this can fit
        line.counts(state)                                {(0, 10)}, if this were the end of a word
        line.fits(line.feed(state, "गल हारी"))             "GLLLLLLGLLGG"
    """

    def __init__(self, form: Form | str, rules: str = "S2", line: int = 0, rhyme: str = "") -> None:
        scansion.licences(rules)
        self.form = form if isinstance(form, Form) else named(form)
        self.parts, self.rules, self.rhyme = self.form.lines[line], self.form.rules or rules, rhyme
        self.rhymes_at = None if self.form.rhyme is None else self.form.rhyme % len(self.parts)
        self.by_matras = self.form.unit == "matras"
        self.tails = [max(map(len, part.ends)) for part in self.parts]
        self.end = (len(self.parts), 0, "")
        self.start = State("", 0, {(0, 0, ""): (0, "")})
        self._hopeful = {}

    def feed(self, state: State, text: str) -> State | None:
        """The state after more text, or None: it cannot be scanned, or whatever may follow, the line will not fit.

        That a rhyme can still be had is not looked into before the part that rhymes ends.
        """
        line = scansion.plain(state.text + text)
        settled, hopes = state.settled, (places := state.places)
        try:
            words(line[settled:])
        except ValueError:
            return None
        for word in scansion.WORD.finditer(line, settled):
            ends, begins = word.end() < len(line), not scansion.WORD.match(line[word.start() - 1:word.start()])
            aksharas, weights = scansion.scan_word(word[0]), word_readings(word[0], self.rules)
            firm = len(aksharas) if ends else max(len(aksharas) - 2, 0)      # two more have begun: nothing changes it
            if begins and _vowelless(aksharas[0]) and (ends or len(aksharas) > 1 or aksharas[0].marks):
                return None                                                  # न् with no vowel after it: no word
            for weight in weights[:firm]:
                places = self._step(places, weight)
            settled = word.start() + sum(len(akshara.text) for akshara in aksharas[:firm])
            if ends:
                places = self._pause(places, line[:settled])
            hopes = self._hopes(places, aksharas[firm:], weights[firm:])
        return State(line, settled, places) if hopes else None

    def fits(self, state: State) -> str | None:
        """The reading of a line that is complete as it is: L, G or . (no weight) for each akshara, | for a pause."""
        return self._reading(self.feed(state, " "))

    def read(self, text: str) -> str | None:
        """The reading of a whole line, or None."""
        return self._reading(self.feed(self.start, text + " "))

    def counts(self, state: State) -> set[tuple[int, int]]:
        """Where the line may be if its last word ends here: a set of (part, how many matras or aksharas of it)."""
        ended = self.feed(state, " ")
        return {place[:2] for place in ended.places} if ended else set()

    def _reading(self, state):
        found = state and state.places.get(self.end)
        return found[1].removesuffix("|") if found else None

    def _step(self, places, weights):
        """The places after one more akshara, which may have these weights."""
        found = {}
        for (part, count, tail), (strained, reading) in places.items():
            if part == len(self.parts):
                continue
            feet, length = self.parts[part].feet, self.tails[part]
            for licence, weight in enumerate(weights):
                if weight and feet and (count == len(feet) or feet[count] not in ("x", "LG"[weight - 1])):
                    continue
                mark = ".LG"[weight]
                place = (part, count + (weight if self.by_matras else min(weight, 1)),
                         (tail + mark)[-length:] if weight and length else tail)
                if self.hope(place) and (place not in found or strained + licence < found[place][0]):
                    found[place] = (strained + licence, reading + mark)
        return found

    def _pause(self, places, line):
        """The places after the end of a word, the last of the line so far: every part that may end here has ended."""
        found = dict(places)
        for place, (strained, reading) in places.items():
            after = (place[0] + 1, 0, "")
            if self.may_end(*place) and (after not in found or strained < found[after][0]) and not (
                    self.rhyme and place[0] == self.rhymes_at and not rhyme(line, self.rhyme)):
                found[after] = (strained, reading + "|")
        return found

    def may_end(self, part: int, count: int, tail: str) -> bool:
        return part < len(self.parts) and count in self.parts[part].counts and tail.endswith(self.parts[part].ends)

    def hope(self, place: tuple[int, int, str]) -> bool:
        """Can the part still end, after some more aksharas or none?"""
        if place not in self._hopeful:
            part, count, tail = place
            length, weights = self.tails[part], (1, 2) if self.by_matras else (1, 1)
            self._hopeful[place] = self.may_end(*place) or (count < max(self.parts[part].counts) and any(
                self.hope((part, count + weight, (tail + mark)[-length:] if length else tail))
                for weight, mark in zip(weights, "LG")))
        return self._hopeful[place]

    def _hopes(self, places, pending, weights):
        """Places that the line may reach with its last aksharas, one or two, which the next characters can change."""
        if not pending:
            return places
        *before, last = pending
        grows = not last.marks and (_vowelless(last) or (last.vowel == "अ" and last.text != "अ"))   # क to का, क्, क्य
        alone = HALANT not in last.text or {last.text, last.text + "ह"} & {*ASPIRATES}              # may be no conjunct
        bends = scansion.BEFORE_YA in RULES[self.rules]
        opened = [scansion.open_weights(akshara, self.rules) for akshara in before]
        found = places
        for weight, may_close in zip(weights, opened):
            more = () if not (grows and may_close) else (1, 2) if alone or bends and may_close == (1,) else (2,)
            found = self._step(found, (*weight, *more))
        found = self._step(found, (1, 2) if grows else (*weights[-1], 2) if last.vowel else weights[-1])
        if not found and grows and before:                                   # in भगवान वा is closed if न becomes न्
            found = self._step(places, (2,) if opened[0] else weights[0])
        return found


def _vowelless(akshara):
    return not akshara.vowel and akshara.text != AVAGRAHA


line_of = cache(Line)


def named(name: str) -> Form:
    """The first form of this name."""
    found = next((form for form in FORMS if form.name == name), None)
    if not found:
        raise ValueError(f"no form named {name!r}: expected one of {', '.join(dict.fromkeys(f.name for f in FORMS))}")
    return found


# rhyme ----------------------------------------------------------------------------------------------------------------
FOLDED = str.maketrans({"ं": "", "ँ": "", "ष": "ख", "ण": "न", "श": "स", "ई": "इ", "ी": "ि", "ऊ": "उ", "ू": "ु"})


@lru_cache(1 << 12)
def rhyme(a: str, b: str) -> str:
    """How two lines rhyme: "full" (the same tuk), "near" or "" (not at all).

    What both lines end with, word for word, is a refrain, and rhymes only if the words before it do: गाता है, आता है.
    Near: anywhere in the tuk nasals and the length of इ and उ aside, and with ष said as ख, ण as न, श as स: देखा, बिसेषा.
    """
    a, b = without_refrain(a, b)
    if not a or not b or a[-1] == b[-1]:
        return ""
    found = [(x, y) for x in _tuks(a) for y in _tuks(b)]
    if any(x == y for x, y in found):
        return "full"
    return "near" if any(x.translate(FOLDED) == y.translate(FOLDED) for x, y in found) else ""


def _tuks(line):
    """Its tuk; where it ends in a word of one akshara, also that of the last two words said as one: of मन का मनका."""
    found = [tuk(" ".join(line[-3:]))]
    return [*found, tuk(line[-2] + line[-1])] if len(line) > 1 and len(scansion.scan_word(line[-1])) == 1 else found


def without_refrain(a, b):
    """The words of two lines up to those that both end with; the first word always stays."""
    a, b = words(a), words(b)
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return a, b


# a stanza -------------------------------------------------------------------------------------------------------------
class Pada(NamedTuple):
    """One part of one line: what is written, how it is read, and what is wrong with it."""

    line: int
    text: str
    reading: str                                         # L, G or . for each akshara
    counts: tuple                                        # how long it can be
    wanted: int                                          # how long it should be; 0 if no form says so
    fault: str


class Verdict(NamedTuple):
    """What `meter` finds."""

    form: str | None                                     # the name of the meter, or None
    nearest: Form | None                                 # what the rest is about: the form named, or else the likeliest
    score: float                                         # 1: all is as it should be
    padas: tuple
    rhymes: tuple                                        # (line, line, "full" or "near" or "")
    faults: tuple                                        # sentences


FITTING, RHYMING = 3 / 4, 1 / 2                          # the shares of lines and rhymes without which no form is named
NEARLY, JAGAN = 1 / 4, 1 / 10                            # what a line of the right length gets; what a jagan costs
RHYMES = {"full": 1.0, "near": 0.5, "": 0.0}
LONG = 1 << 30                                           # more than any line has matras
NESTED = ("S0", "S1", "S2", "S3")                        # each allows more than the one before it


def meter(stanza: str, rules: str = "S2") -> Verdict:
    """The Verdict on a stanza, whose lines end with a danda or a line break. Raises ValueError for what cannot be
    scanned."""
    scansion.licences(rules)
    stanza = scansion.plain(stanza)
    tried = [(_bound(form, way, rules), form, way) for way in _ways(stanza) for form in FORMS]
    halved = _halved(stanza)
    tried += [(_bound(form, halved, rules), form, halved) for form in FORMS if halved and form.rules == "S0"]
    passed, score, form, way = False, 0.0, None, _pieces(END, stanza)
    for bound, candidate, written in sorted(tried, key=lambda found: -found[0]):
        if bound > (score if passed else 0):
            judged = _judge(candidate, written, rules)
            if judged > (passed, score):
                (passed, score), form, way = judged, candidate, written
    if not form:
        padas = tuple(Pada(i, line, _unbent(line, rules), tuple(sorted(matras(line, rules))), 0,
                           f"has {_span(matras(line, rules))} matras") for i, line in enumerate(way))
        faults = [f"pada {k} {pada.fault}" for k, pada in enumerate(padas, 1)] + ["no form has such lines"]
        return Verdict(None, None, 0.0, padas, (), tuple(faults))
    padas = tuple(pada for i, line in enumerate(way) for pada in _padas(form, i, line, rules))
    cut = [[pada.text for pada in padas if pada.line == i] for i in range(len(way))]
    rhymes = _rhymes(form, cut)
    faults = [f"pada {k} {pada.fault}" for k, pada in enumerate(padas, 1) if pada.fault]
    faults += [f"lines {i + 1} and {j + 1} {_no_rhyme(*(words(cut[k][form.rhyme])[-1] for k in (i, j)))}"
               for i, j, how in rhymes if not how]
    faults += ["one line alone is of no form: another one has to agree with it"] if len(way) == 1 else []
    return Verdict(form.name if passed else None, form, score, padas, rhymes, tuple(faults))


def _pieces(where, text):
    return [piece.strip() for piece in where.split(text) if scansion.WORD.search(piece)]


def _ways(stanza):
    """How its lines may be written: each on its own, one before each ? and !, in halves on two lines, two to a line."""
    lines = _pieces(END, stanza)
    if lines:
        yield lines
        marked = _pieces(MARK, stanza)
        if len(marked) > len(lines):
            yield marked
        if len(lines) > 2 and len(lines) % 2 == 0:
            yield [f"{a}, {b}" for a, b in zip(lines[::2], lines[1::2])]
        halves = [half for line in lines for half in _pieces(PAUSE, line)]
        if len(halves) == 2 * len(lines):
            yield halves


def _halved(stanza):
    """Its lines cut where half of their aksharas have come: two padas of a Sanskrit meter, if no comma parts them. None
    if no word ends there."""
    halves = []
    for line in _pieces(END, stanza):
        found = list(scansion.WORD.finditer(line))
        sums = list(accumulate(sum(akshara.weight > 0 for akshara in scansion.scan_word(word[0])) for word in found))
        if sums[-1] % 2 or sums[-1] // 2 not in sums[:-1]:
            return None
        middle = found[sums.index(sums[-1] // 2)].end()
        halves += [line[:middle].strip(), line[middle:].strip(" ,;—–?!")]
    return halves


def _bound(form, lines, rules):
    """The best score that the lines can have, by their lengths alone; 0 if more than half of them have a wrong one."""
    if len(lines) % len(form.lines):
        return 0.0
    counts = _counts_of(tuple(lines), form.unit, form.rules or rules)
    right = sum(not _lengths(form.lines[i % len(form.lines)]).isdisjoint(found) for i, found in enumerate(counts))
    pairs = 0 if form.rhyme is None else len(lines) - -(-len(lines) // form.together)
    return (right + pairs) / max(len(lines) + pairs, 2) if right >= len(lines) / 2 else 0.0


def _judge(form, lines, rules):
    """(Is it this form? Its score): the share of lines that fit and pairs that rhyme, and something for near misses.

    One line alone has half the score: what it has to agree with is missing.
    """
    fits = [divided(form, i, line, rules) for i, line in enumerate(lines)]
    lengths = [NEARLY * _right_length(form, i, line, rules) for i, line in enumerate(lines)]
    marks = [1 - JAGAN * any(map(_jagan, form.lines[i % len(form.lines)], fit)) if fit else length
             for i, (fit, length) in enumerate(zip(fits, lengths))]
    cut = [[text for text, _ in fit] if fit else [line] * len(form.lines[0]) for fit, line in zip(fits, lines)]
    rhymes = _rhymes(form, cut)
    agreeing = sum(bool(how) or _same_end(form, cut, i, j) for i, j, how in rhymes)
    passed = len(lines) > 1 and sum(map(bool, fits)) >= FITTING * len(lines) and agreeing >= RHYMING * len(rhymes)
    return passed, (sum(marks) + sum(RHYMES[how] for *_, how in rhymes)) / max(len(marks) + len(rhymes), 2)


def _right_length(form, i, line, rules):
    """May this line count what the form's lines count?"""
    return not _lengths(form.lines[i % len(form.lines)]).isdisjoint(_counts(line, form.unit, form.rules or rules))


@cache
def _lengths(parts):
    """What lines of these parts may count."""
    totals = {0}
    for part in parts:
        totals = {total + count for total in totals for count in part.counts}
    return totals


@lru_cache(1 << 12)
def _counts(text, unit, rules):
    """What a text counts, or can count."""
    return matras(text, rules) if unit == "matras" else {sum(max(weights) > 0 for weights in readings(text, rules))}


@lru_cache(8)                                            # asked for by every form in turn
def _counts_of(lines, unit, rules):
    return [_counts(line, unit, rules) for line in lines]


@lru_cache(1 << 12)
def divided(form: Form, i: int, line: str, rules: str) -> tuple[tuple[str, str], ...] | None:
    """The parts of the i-th line of a stanza, (text, reading) for each; None if the line does not fit. Raises
    ValueError for what cannot be scanned."""
    line = scansion.plain(line)
    reading = _right_length(form, i, line, rules) and line_of(form, rules, i % len(form.lines)).read(line)
    if not reading:
        return None
    starts, aksharas, marks = [0], 0, reading.split("|")
    for word in scansion.WORD.finditer(line):
        if aksharas == sum(map(len, marks[:len(starts)])):
            starts.append(word.start())
        aksharas += len(scansion.scan_word(word[0]))
    return tuple((line[a:b].strip(), part) for a, b, part in zip(starts, [*starts[1:], len(line)], marks))


def _jagan(part, fit):
    """Does a part that may not, begin with a word that is LGL?"""
    text, reading = fit
    return not part.opens_freely and reading.startswith("LGL") and len(scansion.scan_word(words(text)[0])) == 3


def _rhymes(form, cut):
    """(line, line, how) for the lines that the form wants to rhyme; cut holds the parts of each line."""
    if form.rhyme is None:
        return ()
    ends = [parts[form.rhyme] for parts in cut]
    return tuple((i, j, rhyme(ends[i], ends[j])) for i in range(0, len(ends), form.together)
                 for j in range(i + 1, min(i + form.together, len(ends))))


def _same_end(form, cut, i, j):
    """Do two lines end in the same word where they should rhyme? A fault of the rhyme, and none of the meter."""
    a, b = (words(cut[k][form.rhyme]) for k in (i, j))
    return a[-1] == b[-1]


# what is wrong --------------------------------------------------------------------------------------------------------
def _padas(form, i, line, rules):
    """The parts of one line, each with its fault; where it does not fit, cut where its parts come nearest to it."""
    parts, fit = form.lines[i % len(form.lines)], divided(form, i, line, rules)
    if not fit:
        cut = [(text, _alone(form, part), part) for part, text in zip(parts, _nearest_cut(form, parts, line, rules))]
        fit = [(divided(alone, 0, text, rules) or [(text, "")])[0] for text, alone, _ in cut]
    for part, (text, reading) in zip(parts, fit):
        fault = "" if reading else _fault(form, part, text, rules)
        if reading and _jagan(part, (text, reading)):
            fault = f"begins with a jagan, LGL: {words(text)[0]}"
        reading = reading or _unbent(text, rules)
        counts = tuple(sorted(_counts(text, form.unit, form.rules or rules)))
        yield Pada(i, text, reading, counts, part.counts[0], fault)


def _alone(form, part):
    """A meter of this part of a form and nothing else."""
    return Form("", "", ((part,),), form.unit, None, rules=form.rules)


def _fault(form, part, text, rules):
    """Why a part that does not fit does not."""
    rules, marks = form.rules or rules, pattern(text)
    found = _counts(text, form.unit, rules)
    wider = [name for name in NESTED if not form.rules and name > rules and divided(_alone(form, part), 0, text, name)]
    hint = f" ({wider[0]} would allow it)" if wider else ""
    if found.isdisjoint(part.counts):
        return f"has {_span(found)} {form.unit} where {_span(part.counts)} are wanted: {marks}{hint}"
    if part.feet:
        scanned = [akshara for akshara in zip(scansion.scan(text), readings(text, rules)) if any(akshara[1])]
        k = next(k for k, ((_, weights), want) in enumerate(zip(scanned, part.feet))
                 if want != "x" and "LG".index(want) + 1 not in weights)
        got, want = ("light", "heavy") if part.feet[k] == "G" else ("heavy", "light")
        return f"has a {got} akshara, number {k + 1}, {scanned[k][0].text}, where a {want} one is wanted: {marks}"
    return f"does not end {' or '.join(part.ends)} as it should: {marks}{hint}"


def _no_rhyme(a, b):
    return f"end in the same word, {a}, with no rhyme before it" if a == b else f"do not rhyme: {tuk(a)}, {tuk(b)}"


def _unbent(text, rules):
    """How a text is read if nothing asks for anything else."""
    return "".join(".LG"[weights[0]] for weights in readings(text, rules))


def _span(counts):
    """{15} -> 15, {15, 16} -> 15 or 16, {14, 15, 16} -> 14 to 16"""
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} or {high}" if high == low + 1 else f"{low} to {high}"


def _nearest_cut(form, parts, line, rules):
    """A line that does not fit, cut at ends of words so that as little as possible is missing or left over."""
    found = list(scansion.WORD.finditer(line))
    if len(found) < len(parts):
        return [line]
    counts = [_counts(word[0], form.unit, form.rules or rules) for word in found]
    starts = [*(word.start() for word in found), len(line)]
    best = {0: (0, 0, (0,))}                             # words cut off -> (how much is wrong, pauses not marked, cuts)
    for k, part in enumerate(parts):
        after = {}
        for i, (wrong, unmarked, cuts) in best.items():
            totals = {0}
            for j in range(i + 1, len(found) + 1):
                totals = {total + count for total in totals for count in counts[j - 1]}
                if (j == len(found)) == (k == len(parts) - 1):
                    marked = j == len(found) or PAUSE.search(line, found[j - 1].end(), starts[j])
                    error = min(abs(total - count) for total in totals for count in part.counts)
                    after[j] = min(after.get(j, (LONG,)), (wrong + error, unmarked + (not marked), (*cuts, starts[j])))
        best = after
    *_, cuts = best[len(found)]
    return [line[a:b].strip() for a, b in zip(cuts, cuts[1:])]
