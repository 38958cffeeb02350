"""Formulas as they stand in docstrings, set as mathematics: MathML, which browsers draw without any help.

    mathml("mu = mean(x)"), mathml("p_ij = exp(s_ij - lse_i) for j <= i, else 0"), mathml("x / sqrt(var(x) + eps)")

The notation is what the docstrings use. A blank between factors is a product and stays as a thin space; two or more
stand between formulas. "_" and "^" bind the next factor, as in s_ij, sum_{j<=i}, e^-u and 2^(k + 1), whose braces and
parentheses are not drawn; a "^" between blanks is an exclusive or. "/" takes the factor before it and the one after it,
and their parentheses go. A Greek name is its letter, a d before a short name a differential, digits after a name are
its index, hat is a hat. Whatever else has more than one letter is a word, and upright; so is layer_norm.

    formula  = {item}
    item     = over ["/" over] | operator | blanks
    over     = factor | "d" blank factor
    factor   = base {"_" index | "^" exponent | "'"} ["(" formula ")"]
    base     = name | number | "(" formula ")" | "[" formula "]" | "sqrt" factor

A root is drawn as a sign and a line above: without a font made for mathematics, browsers leave the sign of msqrt out.
"""
import re
from html import escape

TOKEN = re.compile(r"\s+|[a-z]{3,}_[a-z]{4,}\b|\d+(?:\.\d+)?(?:e-?\d+)?(?![\w])|0x[0-9A-F]+|"
                   r"[A-Za-z]+\d*|<-|->|<=|>=|//|\+=|\.\.\.?|\S")
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "mu": "μ", "pi": "π", "sigma": "σ",
         "lambda": "λ", "theta": "θ", "phi": "φ", "Phi": "Φ"}
OPERATORS = {"-": "−", "<-": "←", "->": "→", "<=": "≤", ">=": "≥", "//": "div", "..": "…", "...": "…", "*": "·",
             "x": "×", "^": "⊕"}
LARGE = {"sum": "∑", "prod": "∏"}
UNDER = {"max", "min", "sum", "prod"}                # their index stands under them
DIFFERENTIAL = re.compile(r"d(x|y|z|g|w|u|h|q|k|v|p|s|b|l|L|a|dx|xhat|mu|rstd|qkv)(\d*)$")
OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, set(")]}")


class Unreadable(ValueError):
    """Not in the notation: a bracket without its partner, an index of nothing."""


def mathml(text):
    """The formula as a <math> element. Raises Unreadable."""
    return element("math", Reader(text).formula(None), displaystyle="true")


def element(name, *parts, **attributes):
    told = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{told}>{''.join(parts)}</{name}>"


def space(width):
    return f'<mspace width="{width}em"></mspace>'


class Reader:
    def __init__(self, text):
        self.tokens, self.at = TOKEN.findall(text.strip()), 0

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self):
        self.at += 1
        return self.tokens[self.at - 1]

    def formula(self, closing):
        """Everything up to the bracket that closes it, which is taken too; closing None: up to the end."""
        items = []                                           # (what it is, MathML)
        while self.peek() != (closing or ""):
            token = self.peek()
            if not token or token in CLOSE:
                raise Unreadable(f"{token or 'the end'!r}; expected {closing or 'a factor'!r}")
            if token.isspace():
                self.take()
                wide = len(token) > 1 and self.peek() not in ("=", "<-")
                items.append(("blank", space(2 if wide else 0.22)))
            elif token == "/":
                self.fraction(items)
            elif self.is_operator():
                items.append(("operator", element("mo", escape(self.operator()))))
            else:
                items.append(("d" if token == "d" else "factor", self.factor()))
        if closing:
            self.take()
        return element("mrow", *(item for _, item in items))

    def is_operator(self):
        """Between blanks and two names of sizes, x is one too, as in (T x T)."""
        token = self.peek()
        if token == "x" and self.at > 1 and self.peek(-1) == self.peek(1) == " ":
            return self.peek(-2)[0].isupper() and self.peek(2)[:1].isupper()
        return token not in OPEN and not token[0].isalnum()

    def operator(self):
        """Of two vectors, a dot between blanks is the product; any other ends a sentence."""
        token, before = self.take(), self.peek(-2) if self.at > 1 else ""
        return "·" if token == "." and before.isspace() and self.peek().isspace() else OPERATORS.get(token, token)

    def fraction(self, items):
        """What stands before the slash, and was read already, over what comes after it."""
        while items and items[-1][0] == "blank":
            items.pop()
        if not items or items[-1][0] not in ("factor", "d"):
            raise Unreadable("a slash after nothing")
        above = bare(items.pop()[1])
        if [what for what, _ in items[-2:]] == ["d", "blank"]:
            above = element("mrow", items[-2][1], above)
            del items[-2:]
        self.take()
        if self.peek().isspace():
            self.take()
        alone, below = self.peek() == "d", self.factor()
        if alone and self.peek() == " ":
            self.take()
            below = element("mrow", below, self.factor())
        items.append(("factor", element("mfrac", above, bare(below))))

    def factor(self):
        base, large = self.base()
        below = above = None
        while (mark := self.peek()) in ("_", "^", "'") and mark:
            if mark == "_" and below is None:
                self.take()
                below = self.index()
            elif mark == "^" and above is None and not self.peek(1).isspace():
                self.take()
                above = self.exponent()
            elif mark == "'" and above is None:
                self.take()
                above = element("mo", "’" if self.peek()[:1].isalpha() else "′")
            else:
                break
        if large and below:
            base = element("munder", base, below) if above is None else element("munderover", base, below, above)
        elif below and above:
            base = element("msubsup", base, below, above)
        elif below or above:
            base = element("msub" if below else "msup", base, below or above)
        if self.peek() != "(":
            return base
        self.take()                                          # a function and its argument
        return element("mrow", base, element("mo", "("), self.formula(")"), element("mo", ")"))

    def base(self):
        """(MathML, does its index stand under it?)"""
        token = self.take() if self.peek() else ""
        if token in OPEN:
            return element("mrow", element("mo", token), self.formula(OPEN[token]), element("mo", OPEN[token])), False
        if token == "sqrt":
            if self.peek().isspace():
                self.take()
            line = element("mrow", bare(self.factor()), style="border-top: .06em solid; padding-top: .1em")
            return element("mrow", element("mo", "√", stretchy="false"), line), False
        if token[:1].isdigit():
            return element("mn", token), False
        if token in LARGE and self.peek() == "_":
            return element("mo", LARGE[token], movablelimits="false"), True
        if not token[:1].isalpha():
            raise Unreadable(f"{token or 'the end'!r}; expected a factor")
        return name(token), token in UNDER

    def index(self):
        if self.peek() == "{":
            self.take()
            return self.formula("}")
        token = self.take() if self.peek() else ""
        if not token.isalnum():
            raise Unreadable(f"{token!r}; expected an index")
        return element("mrow", *(element("mn" if c.isdigit() else "mi", c) for c in token))

    def exponent(self):
        if self.peek() == "(":
            self.take()
            return self.formula(")")
        sign = element("mo", OPERATORS[self.take()]) if self.peek() == "-" else ""
        return element("mrow", sign, self.base()[0])


def name(word):
    """A variable or a word."""
    if found := DIFFERENTIAL.match(word):
        return element("mrow", element("mi", "d", mathvariant="normal"), name(found[1] + found[2]))
    letters, digits = re.fullmatch(r"([A-Za-z_]+)(\d*)", word).groups()
    if re.fullmatch("[xyzgpmv]hat", letters):
        one = element("mover", element("mi", letters[0]), element("mo", "^"))
    elif letters in GREEK:
        one = element("mi", GREEK[letters])
    else:
        one = element("mi", letters)                         # of one letter: italic, by MathML's own rule
    return element("msub", one, element("mn", digits)) if digits else one


def bare(item):
    """Without the parentheses around it, if they belong together."""
    found = re.fullmatch(r"<mrow><mo>\(</mo>(.*)<mo>\)</mo></mrow>", item)
    if not found:
        return item
    depth = 0
    for mark in re.findall(r"<mo>([()])</mo>", found[1]):
        depth += 1 if mark == "(" else -1
        if depth < 0:
            return item
    return found[1]
