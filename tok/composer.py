"""Verse that cannot miss its meter: which tokens may come next, if every line is to close on its count?

Line of meter.py reads a line, in whatever pieces it comes. To ask it about each token of a vocabulary would take a
second for every token that is written. So the same machine is made here of tables of three kinds, all of them finite:

    scanner   reads characters and says what is certain: an akshara that weighs 1, one that may weigh 1 or 2, a word's
              end. What a next character may still change stays open, an akshara or two, and of these only what will
              matter: of तु and पि alike, a short इ or उ on a consonant. About a hundred states, for each rule set.
              They are found by asking scansion.py about texts that stand for all others, so there is no second opinion
    counts    the places of Line, (part, count, last weights), all that the line may have reached so far; a set of them
              is one state. And how far the first word of a part is the jagan LGL that may not open it, a free akshara
              taken for either: then no reading of the line opens so
    rhyme     how much of an ending that rhymes stands at the end of the word so far

    सुधारि, a danda    scanner: nothing yet; सु is 1; धा is 2; with the danda रि is 1, and the line is closed
                     counts: in the second part of a doha, which ends GL, {(1, 7, "")} becomes {(1, 8, "")},
                     {(1, 10, "G")} and at last {(1, 11, "GL"), (2, 0, "")}: so 7 is where this word may begin

A verse is written line by line, each followed by its closing, such as "।" and a line break. A token is allowed if the
place that it leads to can be left again, by characters that the vocabulary can spell, until the line is closed. That is
looked for in the graph of all places (composer_cpu.py), and remembered. So there is no dead end: where a token was
allowed, another one is, up to the end of the verse; and if a vocabulary cannot write a form, that is said at the start.
All the tokens are asked at once, on a walk through the tree of their beginnings.

Only letters and signs of Hindi are written, but no avagraha; spaces, a hyphen between words, dandas, and , ; ! ? behind
a word. In a form with a pause these stand at the pause. A word ends in a vowel or in one consonant without it, a
conjunct has four consonants at most, an akshara one of anusvara, visarga and chandrabindu. What else there is can be
read, but is not written here.
"""
import math
import mmap
import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tok import composer_cpu, scansion
from tok.base import refusal
from tok.bpe import BPETokenizer
from tok.char import CharTokenizer
from tok.hindi import normalize
from tok.meter import END, Form, divided, line_of, named
from tok.scansion import ANUSVARA, ASPIRATES, HALANT, SHORT, VISARGA, VOWEL_OF

NUKTA, CHANDRABINDU = "\u093c", "\u0901"
CONSONANTS = "".join(c for c in map(chr, range(0x915, 0x93a)) if c not in "ऩऱळऴ")
DOTTED = "कखगजडढफ"                                          # may have a nukta
SIGNS, LETTERS = "ािीुूृेैोौॉ", "अआइईउऊऋएऐओऔऑ"
MARKS = CHANDRABINDU + ANUSVARA + VISARGA
DANDAS, COMMAS = "।॥", ",;!?"
ALPHABET = DANDAS + "\n " + CONSONANTS + SIGNS + LETTERS + HALANT + MARKS + NUKTA + "-" + COMMAS
LONGEST = 4                                                 # consonants of a conjunct
SIGN_OF = {letter: sign for sign, letter in VOWEL_OF.items()}

WORD, PAUSE, CLOSE = "a word ends", "at a pause", "the line is closed"       # with weights, what the scanner says
DONE, START, GAP, AFTER_COMMA = "done", "start", "gap", "after a comma"      # of its states, those outside a word


# characters -> what is certain ----------------------------------------------------------------------------------------
class Scanner:
    """moves[state, character] is (next state, what is said), for all lines with this closing; states in their order."""

    def __init__(self, rules, closing, lead):
        """closing: what stands behind the line, a danda first. lead: one of these characters stands before it."""
        self.moves, self.states = {}, [DONE, START]
        for state in self.states:                           # which grows
            for char in ALPHABET:
                found = _move(state, char, rules, closing, lead)
                if found:
                    self.moves[state, char] = found
                    if found[0] not in self.states:
                        self.states.append(found[0])


def _move(state, char, rules, closing, lead):
    """A state within a word is (is this its first akshara?, what is open of it)."""
    letter = char in CONSONANTS + LETTERS
    if state == AFTER_COMMA or state == START and lead:
        return (GAP, ()) if char in (lead if state == START else " ") else None
    if state in (START, GAP):
        return ((True, _typical(scansion.scan_word(char)[-1])), ()) if letter else None
    if state == DONE or isinstance(state, int):             # so many characters of the closing have come
        return (_closing(state + 1, closing), ()) if state != DONE and char == closing[state] else None
    first, text = state
    if char in CONSONANTS + SIGNS + LETTERS + HALANT + MARKS + NUKTA:
        return _grown(first, text, char, rules)
    if text.endswith(HALANT) and (first or text.count(HALANT) > 1):            # न् is no word, and none ends in न्द्
        return None
    said = scansion.word_readings(text, rules)
    if char in " -":
        return GAP, (*said, WORD)
    if char in COMMAS:
        return AFTER_COMMA, (*said, WORD, PAUSE)
    return (_closing(1, closing), (*said, WORD, CLOSE)) if char == closing[0] else None


def _closing(n, closing):
    return DONE if n == len(closing) else n


@lru_cache(1 << 16)                                         # it is the same with every closing
def _grown(first, text, char, rules):
    """_move() inside a word."""
    end = text[-1]
    if (char in MARKS and (end in MARKS or end == HALANT) or end == HALANT and char not in CONSONANTS
            or char == NUKTA and end not in DOTTED):
        return None
    try:
        scansion.words(text + char)
    except ValueError:
        return None
    aksharas, weights = scansion.scan_word(text + char), scansion.word_readings(text + char, rules)
    if char == HALANT and aksharas[-1].text.count(HALANT) == LONGEST:
        return None
    waits = _waiting(aksharas[-2], rules) if len(aksharas) > 1 and _open(aksharas[-1]) else ""
    firm = len(aksharas) - 1 - bool(waits)
    return (first and len(aksharas) == 1, waits + _typical(aksharas[-1])), weights[:firm]


def _open(akshara):
    """May its consonants become others: क a क् or a क्य?"""
    return akshara.text.endswith(HALANT) or akshara.vowel == "अ" and akshara.text != "अ" and not akshara.marks


def _waiting(akshara, rules):
    """What stands for it until the consonants behind it are known; "" if its weight does not depend on them."""
    weights = scansion.open_weights(akshara, rules)
    return "" if not weights else "त" if weights == (1,) else "ते"           # as a short vowel, or one a licence bends


def _typical(akshara):
    """A text that stands for all aksharas to which the same can happen."""
    text, vowel = akshara.text, akshara.vowel
    if text == "अ":
        return text
    if not _open(akshara):
        kind = next((kind for kind in ("अ", "इउ", "एओ", "ऐऔ") if vowel in kind), "ऋ" if vowel in SHORT else "आ")
        return "त" + SIGN_OF[kind[0]] * (kind != "अ") + akshara.marks
    *before, last = text.rstrip(HALANT).split(HALANT)
    dead = HALANT * text.endswith(HALANT)
    if not before:
        return ("न" if last + HALANT + "ह" in ASPIRATES else "ड" if last in DOTTED else "त") + dead
    if text.rstrip(HALANT) in ASPIRATES:
        return "न्ह" + dead
    return f"त{HALANT}" * len(before) + ("य" if HALANT + "य" in text else "ड" if last in DOTTED else "त") + dead


# what is certain -> the places of a line ------------------------------------------------------------------------------
JAGAN = ((1,), (2,), (1,))


class Counts:
    """table[state, symbol] of sets of places, numbered; from 0 the line cannot be closed, 1 is the start.

    A symbol is the weights of an akshara, (WORD, does the rhyme hold there?), PAUSE or CLOSE. A place is that of
    meter.Line, and a fourth number: how much of a jagan opens the part, or len(JAGAN) + 1 if it is none any more.
    Places with one count to which the same may follow are taken for one: far from its end a part forgets its last
    weights. So there are some thousand sets at most, where else there would be tens of thousands.
    at[state] are the (part, count) of its places.
    """

    def __init__(self, form, rules, symbols):
        self.machine = line_of(form, rules)
        number = {(*place, self._opening(place[0])): n for n, place in enumerate([(0, 0, ""), self.machine.end])}
        leads = [[frozenset([number.setdefault(after, len(number)) for after in self._after(symbol, *place)])
                  for symbol in symbols] for place in number_and_grow(number)]
        kinds, before = [place[:2] for place in number], 0
        while before < len({*kinds}):
            before, told = len({*kinds}), {}
            kinds = [told.setdefault((kind, *(frozenset([kinds[n] for n in some]) for some in row)), len(told))
                     for kind, row in zip(kinds, leads)]
        of_kind = {kind: [frozenset([kinds[n] for n in some]) for some in row] for kind, row in zip(kinds, leads)}
        at, nowhere = {kind: place[:2] for kind, place in zip(kinds, number)}, frozenset()
        sets, table = {nowhere: 0, frozenset(kinds[:1]): 1, frozenset(kinds[1:2]): 2}, []
        for some in number_and_grow(sets):
            rows = zip(*[of_kind[kind] for kind in some]) if some else [()] * len(symbols)
            table.append([sets.setdefault(nowhere.union(*after), len(sets)) for after in rows])
        self.table, self.at = np.array(table), [frozenset([at[kind] for kind in some]) for some in sets]

    def _opening(self, part):
        parts = self.machine.parts
        return 0 if part < len(parts) and not parts[part].opens_freely else len(JAGAN) + 1

    def _after(self, symbol, part, count, tail, opening):
        """The places to which a symbol leads from one."""
        machine, parts = self.machine, self.machine.parts
        if symbol == CLOSE:
            if (part, count, tail) == machine.end:
                yield part, count, tail, opening
        elif symbol == PAUSE:                              # where the form has pauses, one of them; else any word's end
            if len(parts) == 1 or 0 < part < len(parts) and (count, tail) == (0, ""):
                yield part, count, tail, opening
        elif symbol[0] == WORD:
            if opening != len(JAGAN):
                yield part, count, tail, len(JAGAN) + 1
                if machine.may_end(part, count, tail) and (symbol[1] or part != machine.rhymes_at):
                    yield part + 1, 0, "", self._opening(part + 1)
        elif part < len(parts):
            feet = parts[part].feet
            like = opening < len(JAGAN) and JAGAN[opening][0] in symbol
            for weight in symbol:
                if weight and feet and (count == len(feet) or feet[count] not in ("x", "LG"[weight - 1])):
                    continue
                place = (part, count + (weight if machine.by_matras else min(weight, 1)),
                         self._tail(part, tail + ".LG"[weight] * (weight > 0)))
                if machine.hope(place):
                    yield *place, opening + 1 if like else len(JAGAN) + 1

    def _tail(self, part, marks):
        """What of the last weights may become an ending of the part: its longest end that begins one."""
        while not any(end.startswith(marks) for end in self.machine.parts[part].ends):
            marks = marks[1:]
        return marks


@lru_cache(64)
def _counts(form, rules, symbols):
    return Counts(form, rules, symbols)


def number_and_grow(number):
    """The keys of a dict that grows meanwhile."""
    done = 0
    while done < len(number):
        keys = list(number)[done:]
        done += len(keys)
        yield from keys


PLACE_OF = {char: a for a, char in enumerate(ALPHABET)}
BREAKS = [PLACE_OF[char] for char in " -\n" + DANDAS + COMMAS]         # end a word


# the rhyme ------------------------------------------------------------------------------------------------------------
class Rhyme:
    """moves (K, alphabet) and holds (K,): does the word so far end in the tuk of `line`, and is it none of `words`?

    The whole ending stands in one word here. Where there is no line, it always holds.
    """

    def __init__(self, line="", words=()):
        self.patterns = [*_endings(line)] if line else []   # each with a halant at its end, which may be missing
        self.banned = [[START, *word] for word in words]
        every = [*enumerate([*self.patterns, *self.banned])]
        fits, alike = [[] for _ in ALPHABET], {}            # the elements of patterns that a character fits
        for chars in {*(chars for _, pattern in every for chars in pattern if chars != START)}:
            for char in chars:
                if char in PLACE_OF:                        # of words that were given others may be, too
                    fits[PLACE_OF[char]].append(chars)
        for a, fitting in enumerate(map(tuple, fits)):
            alike.setdefault(fitting, []).append(a)
        begin = frozenset((i, 1) for i, pattern in every if pattern[0] == START)
        number, moves = {begin: 0}, []
        for state in number_and_grow(number):
            at = [*state, *((i, 0) for i, pattern in every if pattern[0] != START)]
            wanted = [(every[i][1][n], (i, n + 1)) for i, n in at if n < len(every[i][1])]
            moves.append([number.setdefault(frozenset([after for chars, after in wanted if chars in fitting]),
                                            len(number)) for fitting in alike])
        kind = np.empty(len(ALPHABET), np.int64)
        for k, characters in enumerate(alike.values()):
            kind[characters] = k
        self.moves = np.ascontiguousarray(np.array(moves, np.int16)[:, kind])    # else the kernels compile once more
        self.moves[:, BREAKS] = 0
        self.holds = np.array([self._holds(state) for state in number], np.int64)

    def _holds(self, state):
        split = len(self.patterns)
        rhymes = any(i < split and len(self.patterns[i]) - n in (0, 1) for i, n in state)
        return (rhymes or not split) and not any(i >= split and n == len(self.banned[i - split]) for i, n in state)


def _endings(line):
    """What a word has to end in to rhyme with a line: lists of sets of characters; after START at its beginning."""
    head, *rest = scansion.rhyming(line)
    ending = "".join(akshara.text for akshara in rest).removesuffix(HALANT)
    if not rest or head.vowel not in SIGN_OF or not {*ending} <= {*ALPHABET}:
        return
    # In गती the a is said, but in बहती it would not be: so nothing may stand before it.
    quiet = len(rest) == 1 and head.vowel == "अ" and head.weight < 2 and rest[0].vowel not in ("", "अ")
    opening = [START] if quiet else []
    for vowel in ([CONSONANTS + NUKTA, *SIGN_OF[head.vowel]], [head.vowel]):
        yield [*opening, *vowel, *head.marks, *ending, HALANT]


# a vocabulary ---------------------------------------------------------------------------------------------------------
class Vocabulary:
    """The tokens of a tokenizer as a tree of bytes; of equal ones, and of special ones, it knows that they are."""

    def __init__(self, tokenizer):
        if not isinstance(tokenizer, BPETokenizer | CharTokenizer):
            raise refusal("Vocabulary", f"a {type(tokenizer).__name__}", "byte pairs or characters, whose texts, "
                          "joined, are the text")
        special = set(tokenizer.special.values())
        self.tokens = [None if i in special or token is None else token.encode() if isinstance(token, str) else token
                       for i, token in enumerate(tokenizer.vocab)]
        strings = sorted({token for token in self.tokens if token})
        place = {string: n for n, string in enumerate(strings)}
        self.strings, self.number = len(strings), np.array([place.get(token, -1) for token in self.tokens])
        self.bytes_to, self.begun = _characters()
        whole, parts = [], []                               # most tokens are whole characters, of which there are fewer
        for n, string in enumerate(strings):
            text = string.decode(errors="replace")
            if {*text} <= {*ALPHABET}:
                whole.append(([PLACE_OF[char] for char in text], n))
            elif "\ufffd" in text:
                parts.append((string, n))
        whole.sort()
        chars_to = np.full((len(self.begun), len(ALPHABET)), -1, np.int16)
        chars_to[0] = -2 - np.arange(len(ALPHABET))
        self.trees = [(_tree(whole), chars_to), (_tree(parts), self.bytes_to)]
        self.deepest = max(map(len, strings), default=0)
        self.spelled = [char.encode() in place or all(bytes([b]) in place for b in char.encode()) for char in ALPHABET]


def _tree(numbered):
    """Of sorted (string, number), as composer_cpu.allowed takes it. A string is of bytes, or of places in ALPHABET."""
    byte, depth, past, string, before = [], [], [], [], b""
    way = []                                                # the nodes from the root to the last one
    for text, n in numbered:
        common = next((i for i, (a, b) in enumerate(zip(before, text)) if a != b), min(len(before), len(text)))
        for node in way[common:]:
            past[node] = len(byte)
        del way[common:]
        for i in range(common, len(text)):
            way.append(len(byte))
            byte.append(text[i])
            depth.append(i + 1)
            past.append(-1)
            string.append(n if i + 1 == len(text) else -1)
        before = text
    for node in way:
        past[node] = len(byte)
    kinds = np.uint8, np.uint16, np.int32, np.int32
    return tuple(np.array(column, kind) for column, kind in zip((byte, depth, past, string), kinds))


def _characters():
    """bytes_to (U, 256) of composer_cpu, and begun (U, alphabet): does a character begin so?

    Only byte pairs have tokens that are parts of characters; and they have all bytes, so that any can be ended.
    """
    begins = [b"", *sorted({char.encode()[:n] for char in ALPHABET for n in range(1, len(char.encode()))})]
    to, begun = np.full((len(begins), 256), -1, np.int16), np.zeros((len(begins), len(ALPHABET)), bool)
    for a, char in enumerate(ALPHABET):
        data = char.encode()
        for n in range(len(data)):
            u = begins.index(data[:n])
            to[u, data[n]] = -2 - a if n + 1 == len(data) else begins.index(data[:n + 1])
            begun[u, a] = True
    return to, begun


# a line ---------------------------------------------------------------------------------------------------------------
@lru_cache(64)
def _without_rhyme(form, rules, closing, lead):
    """(scans, emits, counts) of a line, and where it may be in each state of counts: see Counts.at."""
    scanner = Scanner(form.rules or rules, closing, lead)
    number = {state: n for n, state in enumerate(scanner.states)}
    said = {said: n for n, said in enumerate(dict.fromkeys(said for _, said in scanner.moves.values()))}
    symbols = sorted({s for sentence in said for symbol in sentence for s in _flagged(symbol)}, key=repr)
    machine = _counts(form, rules, tuple(symbols))
    single = machine.table
    scans, emits = (np.full((len(number), len(ALPHABET)), fill, np.int16) for fill in (-1, 0))
    for (state, char), (after, sentence) in scanner.moves.items():
        at = number[state], PLACE_OF[char]
        scans[at], emits[at] = number[after], said[sentence]
    counts = np.empty((len(single), 2 * len(said)), np.int32)
    for sentence, n in said.items():
        for holds in (0, 1):
            counts[:, 2 * n + holds] = np.arange(len(single))
            for symbol in sentence:
                counts[:, 2 * n + holds] = single[counts[:, 2 * n + holds],
                                                        symbols.index(_flagged(symbol)[-holds])]
    return scans, emits, counts, machine.at


def _flagged(symbol):
    """A word's end is another symbol where the rhyme holds: (where it does not, where it does)."""
    return ((WORD, False), (WORD, True)) if symbol == WORD else (symbol,)


START_PLACE, SPACE = (0, 1, 1, 0), np.frombuffer(b" ", np.uint8)


class Pen:
    """A line in a vocabulary, with its closing. A place is a tuple (u, c, d, k), see composer_cpu.

    form: one of this line alone. closing and lead: as Scanner takes them. rhyme: a Rhyme.
    """

    def __init__(self, vocabulary, form, rules, closing, lead, rhyme):
        self.vocabulary = vocabulary
        *tables, self.at = _without_rhyme(form, rules, closing, lead)
        self.tables = (*tables, rhyme.moves, rhyme.holds)
        scans, emits, counts, rhymes, _ = self.tables
        kinds, columns = {}, np.concatenate([scans, emits, rhymes]).T
        for a in np.flatnonzero(vocabulary.spelled):        # one character of each kind that can be spelled
            kinds.setdefault(columns[a].tobytes(), a)
        self.typical = np.array([*kinds.values()])
        shape = len(counts), len(rhymes), len(scans)
        pages = mmap.mmap(-1, math.prod(shape))             # few of them are ever written to, or have to be zeroed
        self.memo = np.frombuffer(pages, np.int8).reshape(shape)
        deepest = 32 * sum(max(part.counts) + 1 for part in form.lines[0])
        self.stack = np.zeros((deepest, 4), np.int64)
        self.ways = np.zeros((vocabulary.deepest + 1, 4), np.int64)
        self.rhyme, self.masks = rhyme, {}

    def _search(self):
        return self.vocabulary.begun, self.typical, self.tables, self.memo, self.stack

    def follow(self, place, data):
        """The place after these bytes, or None if it has no hope."""
        data = np.frombuffer(data, np.uint8)
        after = composer_cpu.follow(np.array(place), data, self.vocabulary.bytes_to, self.tables)
        return tuple(after.tolist()) if after[2] and composer_cpu.is_hopeful(after, *self._search()) else None

    def ends(self, place):
        """Where the line may be, if its last word or a pause ends here, before a space: a set of (part, count)."""
        return self.at[composer_cpu.follow(np.array(place), SPACE, self.vocabulary.bytes_to, self.tables)[2]]

    def hopeful(self):
        """Can the line be written at all?"""
        return composer_cpu.is_hopeful(np.array(START_PLACE), *self._search())

    def allowed(self, place):
        """Which tokens may come next? (V,)"""
        if place not in self.masks:
            if len(self.masks) >= MASKS:
                self.masks.clear()
            ok = np.zeros(self.vocabulary.strings + 1, bool)                   # the last one for tokens that are none
            for tree, to in self.vocabulary.trees:
                composer_cpu.allowed(np.array(place), tree, to, *self._search(), self.ways, ok)
            self.masks[place] = ok[self.vocabulary.number]
        return self.masks[place]


# a verse --------------------------------------------------------------------------------------------------------------
class Progress(NamedTuple):
    """How far a verse has come."""

    lines: tuple                                            # those that are closed, without what closes them
    text: bytes                                             # all of it
    line: int                                               # where the last line begins, that is not closed
    place: tuple                                            # where that is on its Pen
    pen: Pen | None                                         # which that is; None if the verse is complete


class Composer:
    """A verse of a form, from its beginning to its end, token by token.

    lines: how many, padas in a chaupai; the usual number without. rhyme: shall they, where the form says so? Where a
    vocabulary has no word that rhymes, and only there, a line goes without.

        composer = Composer(Vocabulary(tokenizer), "doha")
        progress = composer.begin("श्रीगुरु चरन")
        composer.allowed(progress)                          booleans (V,), True somewhere until the verse is complete
        progress = composer.after(progress, token)          None if it was not allowed
        composer.complete(progress), progress.text.decode()
    """

    def __init__(self, vocabulary, form, rules="S2", lines=None, rhyme=True):
        scansion.licences(rules)
        self.vocabulary, self.rules = vocabulary, rules
        self.form = form = form if isinstance(form, Form) else named(form)
        self.rhymes = rhyme and form.rhyme is not None
        self.together = form.together if form.rhyme is not None else 2
        self.lines = max(len(form.lines), self.together) if lines is None else lines
        if not 0 < self.lines <= MOST or self.lines % len(form.lines):
            raise refusal("Composer", f"{self.lines} lines of {form.name}",
                          f"{len(form.lines)}, or a multiple of it, at most {MOST}")
        self._pens = lru_cache(16)(self._pen)
        for i in range(self.lines):
            if not self._pens(i, "", ()).hopeful():
                raise refusal("Composer", f"a vocabulary that cannot write line {i + 1} of {form.name} under {rules}",
                              "one with the letters and signs of Hindi, a space and dandas")

    def _layout(self, i: int) -> tuple[str, str]:
        """(what closes line i, which characters may stand before it). The two padas of a chaupai may share a line."""
        last, second, joined = i + 1 == self.lines, i % 2 == 1, self.form.name in JOINED
        return DANDAS[second or last] + "\n" * (not last and (second or not joined)), " \n" * (joined and second)

    def _pen(self, i, rhyme, words):
        line = self.form.lines[i % len(self.form.lines)]
        alone = Form("", "", (line,), self.form.unit, self.form.rhyme, rules=self.form.rules)        # shares its tables
        return Pen(self.vocabulary, alone, self.rules, *self._layout(i), Rhyme(rhyme, words))

    def pen(self, lines):
        """What writes the line after these; None if there is none."""
        i = len(lines)
        if i == self.lines:
            return None
        group = lines[i - i % self.together:]
        if group and self.rhymes:
            ends = [divided(self.form, k, line, self.rules)[self.form.rhyme][0]  # type: ignore[index]  # it fits
                    for k, line in enumerate(group, i - len(group))]
            pen = self._pens(i, ends[0], tuple(scansion.words(end)[-1] for end in ends))
            if pen.hopeful():
                return pen
        return self._pens(i, "", ())

    def begin(self, text=""):
        """The Progress after a text: a verse so far, whose last line may be open. Commas stay only where they may."""
        text = re.sub("[\u200c\u200d]", "", normalize(text).replace("—", " ").replace("–", " "))
        *closed, begun = (" ".join(re.sub("([,;!?])[,;!? ]*", r"\1 ", piece).split()) for piece in END.split(text))
        closed = [line.replace(" ,", ",").rstrip(COMMAS + " -") for line in closed if scansion.WORD.search(line)]
        if len(closed) + bool(begun) > self.lines:
            raise refusal("Composer", f"{len(closed) + bool(begun)} lines", f"at most the {self.lines} of the verse")
        for i, line in enumerate(closed):
            if not divided(self.form, i, line, self.rules):
                raise self._refusal(line)
        text = "".join(self._layout(i)[1][:1] + line + self._layout(i)[0] for i, line in enumerate(closed)).encode()
        progress = Progress(tuple(closed), text, len(text), START_PLACE, self.pen(tuple(closed)))
        for char in begun and self._layout(len(closed))[1][:1] + begun:
            after = self._feed(progress, char.encode())
            if after is None and char not in COMMAS:
                raise self._refusal(begun)
            progress = after or progress
        return progress

    def _refusal(self, line):
        try:
            counts = ", ".join(map(str, sorted(scansion.matras(line, self.rules))))
            strange = next((char for char in line if char not in ALPHABET), None)        # it scans, and is not written
            hint = (f"{strange} is no letter that the composer writes" if strange else
                    f"it counts {counts} matras; python -m tok scan shows how")
        except ValueError as error:
            hint = str(error)
        want = " or ".join(" + ".join("/".join(map(str, part.counts)) for part in parts)
                           for parts in dict.fromkeys(self.form.lines))
        return refusal("Composer", f"{line!r}", f"a line of {self.form.name} under {self.rules}, {want} "
                       f"{self.form.unit}, or its beginning", hint)

    def _feed(self, progress, data):
        place = progress.pen.follow(progress.place, data)
        if place is None:
            return None
        text = progress.text + data
        if place[1] != composer_cpu.DONE:
            return progress._replace(text=text, place=place)
        lines = *progress.lines, text[progress.line:].decode().strip(" \n" + DANDAS)
        return Progress(lines, text, len(text), START_PLACE, self.pen(lines))

    def complete(self, progress):
        return len(progress.lines) == self.lines

    def allowed(self, progress):
        """Which tokens may come next? (V,)"""
        return progress.pen.allowed(progress.place)

    def ends(self, progress):
        """Where the line may be if a word or a pause ends here: a set of (part, count); (next part, 0) after a part."""
        return progress.pen.ends(progress.place)

    def after(self, progress, token):
        """The Progress after a token, or None if that is not allowed."""
        data = self.vocabulary.tokens[token]
        return self._feed(progress, data) if data else None


JOINED, MOST = {"chaupai"}, 64
MASKS = 1 << 10                                             # kept of a line
