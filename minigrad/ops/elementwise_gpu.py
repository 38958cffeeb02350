"""add for CuPy arrays: residual connections and position embeddings. Formula: elementwise.py."""
from minigrad.ops.elementwise import add as definition
from minigrad.sums_gpu import addable, plus


def forward(a, b):
    return (plus(a, b) if addable(a, b) else definition.reference(a, b)[0]), ()


add = forward, definition.reference_backward
