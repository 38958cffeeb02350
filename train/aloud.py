"""Verse that a Composer keeps in its meter, told to a model that counts aloud (poems.counted): what is left comes from
the Composer, not from the model.

    at the beginning of a line    <lines=2>, if the text too begins a line there, and the opening of its first part
    within a word                 more of the word; or, where the word may end, a count: what is left then. So the model
                                  ends its words, and of several readings it takes one
    after that count              what may follow a word there; after a 0 the end of a part, or the opening of the next
    after a comma at a pause      the opening of the next part

A part is opened by the whole of its length. One that rhymes is first told on what: the model chooses for the first of
the lines that rhyme together, or leaves it open; for the others it is what the first one ends with.
"""
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from tok.base import Tokenizer
from tok.composer import COMMAS, DANDAS, JOINED, Composer, Progress
from tok.meter import Line, divided, line_of
from tok.scansion import WORD, scan_word, words
from train import poems

BREAKS = " -\n" + DANDAS + COMMAS


class Place(NamedTuple):
    """Where a verse is."""

    progress: Progress
    said: tuple                                            # the counts and rhymes since the last other token
    last: str                                              # the last character of the line, "" at its beginning


def _shortest(some, tokens):
    """Of the tokens for which some (V,) is true those that do not begin with another one."""
    found = {}
    for token in sorted(np.flatnonzero(some), key=lambda i: len(tokens[i] or b"")):
        if text := tokens[token]:
            if not any(text.startswith(shorter) for shorter in found):
                found[text] = token
    return [*found.values()]


class Aloud:
    """A Composer with the counts and rhymes of a tokenizer, if it has any."""

    def __init__(self, composer: Composer, tokenizer: Tokenizer) -> None:
        self.composer, self.names = composer, poems.counts(tokenizer)
        self.ids = {name: i for i, name in self.names.items()}
        self.tuks = {name for name in self.ids if name.startswith("<tuk=")}
        self.ended = self._left(0)
        pauses = COMMAS * (len(composer.form.lines[0]) > 1)
        first, begun = [], []                              # of each token the first character; may it become a break?
        for token in composer.vocabulary.tokens:
            first.append((token or b" ").decode(errors="replace")[0])
            begun.append(any(char.encode().startswith(token or b" ") for char in BREAKS))
        self.closes = np.isin(first, [*DANDAS + pauses])                                      # ends a part
        self.spaces = np.isin(first, [*BREAKS]) & ~self.closes                                # ends a word within it
        self.goes_on = ~(self.closes | self.spaces | begun)                                   # is more of a word
        self.first = [_shortest(some, composer.vocabulary.tokens) for some in (self.spaces, self.closes)]

    def begin(self, text: str = "") -> Place:
        """The Place after a text, as Composer.begin() takes it."""
        return self._at(self.composer.begin(text))

    def allowed(self, place: Place) -> np.ndarray:
        """Which tokens may come next? (V,)"""
        given = self.composer.allowed(place.progress)
        if not self.ids:
            return given
        names, others = self.due(place)
        if others is self.goes_on:
            names = [name for name in names if self._is_true(name, place.progress)]
        found = given & others
        found[[self.ids[name] for name in names if name in self.ids]] = True
        return found if found.any() else given             # a character that can only be spelled byte by byte

    def tried(self, place: Place, token: int) -> Place | None:
        """The Place after a token, or None if it is not in allowed(place): that is quicker to say of one."""
        if token in self.names:
            name, (names, others) = self.names[token], self.due(place)
            true = name in names and (others is not self.goes_on or self._is_true(name, place.progress))
            return self.after(place, token) if true else None
        if self.ids:
            others = self.goes_on if self._in_word(place) else self.due(place)[1]
            if not (others if isinstance(others, bool) else others[token]):
                return None
        progress = self.composer.after(place.progress, token)
        return progress and self._at(progress)

    def _is_true(self, name, progress):
        """Can what follows a word be as this count says: the end of a part after a 0, else none?"""
        tokens = self.composer.vocabulary.tokens
        return any(progress.pen.follow(progress.place, tokens[i]) for i in self.first[name == self.ended])

    def after(self, place: Place, token: int) -> Place:
        """The Place after a token that is allowed."""
        if token in self.names:
            return place._replace(said=(*place.said, self.names[token]))
        return self._at(self.composer.after(place.progress, token))

    def _at(self, progress):
        """The Place of a progress behind a token that is no count."""
        return Place(progress, (), progress.text[progress.line:].decode(errors="replace")[-1:])

    def due(self, place: Place) -> tuple[Collection[str], np.ndarray | bool]:
        """(the counts and rhymes that may come, which of the tokens that are none may)."""
        said, last, machine = place.said, place.last, self.machine(len(place.progress.lines))
        if not last:
            names = self._lines(place.progress.text)[len(said):] or self._opening(place, machine, 0)
            return names, not names
        if self._in_word(place):
            return {self._left(machine.parts[part].counts[0] - n) if n else self.ended
                    for part, n in self.composer.ends(place.progress)}, self.goes_on
        if last not in COMMAS:
            if not WORD.match(last):
                return (), True
            if said[0] != self.ended:
                return (), self.spaces
        begun = [part for part, n in self.composer.ends(place.progress) if n == 0 < part < len(machine.parts)]
        names = self._opening(place, machine, begun[0]) if begun else ()
        if said == (self.ended,):
            return names, self.closes
        return names, False if names else self.spaces if said else True

    def _in_word(self, place):
        """May its last word go on?"""
        return not place.said and bool(WORD.match(place.last))

    def _opening(self, place, machine, part):
        """What may be said next to open a part; nothing, if its length has been said."""
        whole = self._left(machine.parts[part].counts[0])
        if whole in place.said:
            return ()
        if part != machine.rhymes_at or self.tuks & {*place.said}:
            return {whole}
        lines = place.progress.lines
        first = len(lines) - len(lines) % self.composer.together
        if first == len(lines) or not self.composer.rhymes:
            return {*self.tuks, whole}
        return {self._tuk(first, lines[first])} & self.tuks or {whole}

    def _tuk(self, i, line):
        """On what line i rhymes."""
        part = divided(self.composer.form, i, line,
                       self.composer.rules)[self.composer.form.rhyme]  # type: ignore[index]        # the line fits
        return poems.token("tuk", poems.ending(words(part[0])))

    def _left(self, n):
        return poems.left(n, self.composer.form.unit)

    def machine(self, i: int) -> Line:
        form = self.composer.form
        return line_of(form, self.composer.rules, i % len(form.lines))

    def _lines(self, text):
        """The count of lines at this place, if one stands here and has a token."""
        name = poems.token("lines", self._in_all() - text.count(b"\n"))
        return [name] if text[-1:] in (b"", b"\n") and name in self.ids else []

    def _in_all(self):
        """How many lines the text of the verse will have."""
        return -(-self.composer.lines // 2) if self.composer.form.name in JOINED else self.composer.lines

    def told(self, progress: Progress) -> str:
        """The text so far with its counts; its last word, if nothing stands behind it, may go on and has none."""
        text = progress.text.decode()
        if not self.ids or not progress.text.strip():
            return text
        begun, told = text[len(progress.text[:progress.line].decode()):], []
        lines, rhyme = [*progress.lines, *[begun] * bool(begun)], None
        for i, line in enumerate(lines):
            machine = self.machine(i)
            if i < len(progress.lines):
                reading = machine.read(line)
            else:                                          # of its words that have ended
                last = [word.start() for word in WORD.finditer(line) if word.end() == len(line)]
                state = machine.feed(machine.start, line[:last[0]] if last else line)
                reading = min(state.places.values())[1]  # type: ignore[union-attr]      # the line fits so far
            if i % self.composer.together == 0 or not self.composer.rhymes:
                rhyme = self._tuk(i, line) if machine.rhymes_at is not None and i < len(progress.lines) else None
            told += self._words_told(machine, line, reading, rhyme)
        whole = text.removesuffix("\n")
        return poems.counted(whole, self.ids, told, self._in_all()) + text[len(whole):]

    def _words_told(self, machine, line, reading, rhyme):
        """poems.told_in() of a line that is read so and rhymes so; of words that the reading does not reach nothing is
        told after them."""
        parts, part, at, left = reading.split("|"), 0, 0, machine.parts[0].counts[0]
        for word in words(line):
            if at == len(parts[part]) and part + 1 < len(parts):
                part, at, left = part + 1, 0, machine.parts[part + 1].counts[0]
            marks = parts[part][at:at + len(scan_word(word))]
            before = [rhyme] * bool(rhyme and part == machine.rhymes_at) + [self._left(left)] if at == 0 else []
            at += len(marks)
            left -= sum(".LG".index(mark) if machine.by_matras else mark != "." for mark in marks)
            yield before, [self._left(left)] if marks else []
