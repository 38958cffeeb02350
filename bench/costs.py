"""What every op computes and moves, as formulas: the table behind python -m bench ops and the book of formulas.

The shapes are a GPT's: N = B T tokens in B rows of T, width C in H heads of D = C / H entries, M = B H T^2 scores, V
tokens in the vocabulary, P parameters; s bytes in an entry. x is (N, C) where nothing else suggests itself; GELU, relu
and what stands before and after them are four times as wide.

Operations: where there are matrix products, theirs, and no others, which are too few to matter. Elsewhere those of the
reference, one for each entry that an array function computes, be it a sum or an exponential; moving an entry is none,
and neither are the random numbers of dropout.

Bytes: each array once each time that it must be read or written; what is only looked at in another shape moves
nothing. Gradients of weights and moments are float32. Of attention's scores, half are needed. linear_cross_entropy may
multiply in either phase; it is booked under forward, where ours does it.
"""
import ast
import operator
import re

# name: ((operations forward, backward), (bytes forward, backward)), or of an update alone; "" is nothing
COSTS = {
    "add": (("N C", ""), ("3 s N C", "")),
    "sub": (("N C", "N C"), ("3 s N C", "2 s N C")),
    "mul": (("N C", "2 N C"), ("3 s N C", "5 s N C")),
    "div": (("N C", "4 N C"), ("3 s N C", "5 s N C")),
    "neg": (("N C", "N C"), ("2 s N C", "2 s N C")),
    "pow": (("N C", "11 N C"), ("3 s N C", "6 s N C")),
    "square": (("N C", "2 N C"), ("2 s N C", "3 s N C")),
    "sqrt": (("N C", "2 N C"), ("2 s N C", "3 s N C")),
    "abs": (("N C", "2 N C"), ("2 s N C", "3 s N C")),
    "exp": (("N C", "N C"), ("2 s N C", "3 s N C")),
    "log": (("N C", "N C"), ("2 s N C", "3 s N C")),
    "log1p": (("N C", "2 N C"), ("2 s N C", "3 s N C")),
    "sin": (("N C", "2 N C"), ("2 s N C", "3 s N C")),
    "cos": (("N C", "3 N C"), ("2 s N C", "3 s N C")),
    "tanh": (("N C", "3 N C"), ("2 s N C", "3 s N C")),
    "sigmoid": (("6 N C", "3 N C"), ("2 s N C", "3 s N C")),
    "silu": (("7 N C", "11 N C"), ("2 s N C", "3 s N C")),
    "erf": (("64 N C", "7 N C"), ("2 s N C", "3 s N C")),
    "maximum": (("N C", "4 N C"), ("3 s N C", "5 s N C")),
    "minimum": (("N C", "4 N C"), ("3 s N C", "5 s N C")),
    "clip": (("2 N C", "2 N C"), ("2 s N C", "3 s N C")),
    "where": (("", ""), ("(3 s + 1) N C", "(3 s + 1) N C")),
    "cast": (("", ""), ("(s + 2) N C", "(s + 2) N C")),
    "getitem": (("", "N C"), ("2 s N C", "2 s N C + 8 N")),
    "take_along_axis": (("", "N"), ("s N C + (s + 8) N", "s N C + (s + 8) N")),
    "sum": (("N C", ""), ("s N C + s N", "")),
    "mean": (("N C + N", "N"), ("s N C + s N", "s N C + s N")),
    "var": (("4 N C + 2 N", "2 N C + N"), ("s N C + s N", "2 s N C + 2 s N")),
    "max": (("N C", "2 N C + N"), ("s N C + s N", "2 s N C + 2 s N")),
    "min": (("N C", "2 N C + N"), ("s N C + s N", "2 s N C + 2 s N")),
    "logsumexp": (("4 N C + 3 N", "3 N C + N"), ("s N C + s N", "2 s N C + 2 s N")),
    "cumsum": (("N C", "N C"), ("2 s N C", "2 s N C")),
    "prod": (("N C", "4 N C - 2 N"), ("s N C + s N", "2 s N C + s N")),
    "reshape": (("", ""), ("", "")),
    "expand_dims": (("", ""), ("", "")),
    "squeeze": (("", ""), ("", "")),
    "transpose": (("", ""), ("", "")),
    "swapaxes": (("", ""), ("", "")),
    "broadcast_to": (("", ""), ("", "")),
    "flip": (("", ""), ("", "")),
    "pad": (("", ""), ("3 s N C", "")),
    "tril": (("", ""), ("2 s N C", "2 s N C")),
    "concatenate": (("", ""), ("4 s N C", "")),
    "stack": (("", ""), ("4 s N C", "")),
    "split": (("", ""), ("", "2 s N C")),
    "matmul": (("2 N T C", "4 N T C"), ("s (2 N C + M)", "s (4 N C + M)")),
    "linear": (("8 N C^2", "16 N C^2"), ("s (5 N C + 4 C^2)", "s (6 N C + 4 C^2) + 16 C^2")),
    "mlp": (("16 N C^2", "32 N C^2"), ("s (14 N C + 8 C^2)", "s (23 N C + 8 C^2) + 32 C^2")),
    "attention": (("2 N T C", "5 N T C"), ("4 s N C", "8 s N C")),
    "layer_norm": (("8 N C + 5 N", "13 N C + 2 N"), ("2 s N C", "3 s N C")),
    "add_layer_norm": (("9 N C + 5 N", "14 N C + 2 N"), ("4 s N C", "4 s N C")),
    "gelu": (("36 N C", "76 N C"), ("8 s N C", "12 s N C")),
    "relu": (("4 N C", "4 N C"), ("8 s N C", "12 s N C")),
    "softmax": (("5 M", "4 M"), ("2 s M", "3 s M")),
    "log_softmax": (("5 M + B H T", "4 M"), ("2 s M", "3 s M")),
    "dropout": (("N C", "N C"), ("2 s N C", "2 s N C")),
    "embedding": (("", "N C"), ("2 s N C", "s N C + 4 V C")),
    "cross_entropy": (("6 N V", "N V"), ("s N V", "2 s N V")),
    "linear_cross_entropy": (("6 N V C", ""), ("2 s N C + (s + 4) V C", "2 s N C + 8 V C")),
    "adamw": (("15 P",), ("28 P",)),
    "sum_of_squares": (("2 P",), ("4 P",)),
    "control": (("",), ("",)),                           # a vector of eight numbers, however large the model
}
PRODUCTS = {"matmul", "linear", "mlp", "attention", "linear_cross_entropy"}
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
              ast.Pow: operator.pow}


def value(formula, names):
    """The number that a formula in the notation of minigrad/typeset.py means: value("2 N C^2", dict(N=3, C=4)) = 96."""
    def of(node):
        if isinstance(node, ast.BinOp):
            return ARITHMETIC[type(node.op)](of(node.left), of(node.right))
        return names[node.id] if isinstance(node, ast.Name) else node.value
    return of(ast.parse(re.sub(r"(?<=[\w)]) (?=[\w(])", "*", formula).replace("^", "**"), mode="eval").body) \
        if formula else 0


def price(name, names):
    """Bytes moved and operations in products, as bench.ops.Row wants them."""
    operations, moved = COSTS[name]
    return dict(moved=tuple(value(text, names) for text in moved),
                flops=tuple(value(text, names) if name in PRODUCTS else 0 for text in operations))
