r"""Where a text may be cut into words before byte pairs are merged; no merge ever crosses a cut.

All patterns try their alternatives in order and cover every character, so the pieces of a text, joined, are the
text. A word takes the one space before it along, which makes " the" a single token.

"gpt2" is the pattern that GPT-2 was published with. Its words are runs of letters, \p{L}. Devanagari writes most of
its vowels, and the virama that joins consonants, as marks, \p{M}, and so does every Indic script; a mark is not a
letter, and हिन्दी falls apart at each of them:
    "gpt2"     ह|ि|न|्|द|ी| कव|ि|त|ा         two words in 10 pieces, and no token can ever hold a syllable
    "indic"    हिन्दी| कविता                   two words in 2
"gpt4" is the pattern of GPT-4 (cl100k_base): contractions in capitals too, at most three digits to a piece, any one
sign instead of only a space at the head of a word, and line breaks at the end of a piece. Hindi fares no better in it:
    "gpt4"     ह|िन|्द|ी| कव|ित|ा              a mark is taken for the sign at the head of the next word
"indic" differs in one idea, that a mark belongs to whatever it follows: to a letter, to a digit, and to a symbol, so
that ❤️ keeps the invisible mark which makes it red. Inside a word it also keeps the two joiners, U+200C and U+200D,
which choose between the forms of a conjunct.
"""
from collections.abc import Iterator

import regex

SPLITS = {
    "indic": r"'(?:[sdmt]|ll|ve|re)"                            # English: don't -> don|'t
             r"| ?[\p{L}\p{M}][\p{L}\p{M}\u200c\u200d]*"        # a word
             r"| ?\p{N}[\p{N}\p{M}]*"                           # a number
             r"| ?[^\s\p{L}\p{M}\p{N}][^\s\p{L}\p{N}]*"         # signs, and marks and joiners on them
             r"|\s+(?!\S)|\s+",                                 # space, all but the last one if a word follows
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
}

WHITE = ("\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029"
         "\u202f\u205f\u3000")                           # \s
SIGN = r"[\p{P}$+<=>^`|~]"                                # ASCII's signs, and what Unicode calls punctuation
WORDPIECE = rf"{SIGN}|(?:(?!{SIGN})\S)+|\s+"              # BERT's words: what white space separates, and each sign


def words_by(pattern: regex.Pattern, text: str) -> Iterator[str]:
    """By definition: the words of a text are what a compiled pattern matches, and what lies between two matches."""
    end = 0
    for found in pattern.finditer(text):
        if found.start() > end:
            yield text[end:found.start()]
        if found.end() > found.start():
            yield found[0]
        end = found.end()
    if end < len(text):
        yield text[end:]
