"""Launches relu.cu. Formula, names and [RE] numbers: relu.py."""
from minigrad.cuda import has_instance
from minigrad.fused import relu as formula
from minigrad.fused.elementwise_gpu import entrywise


def forward(x):
    if not has_instance(x):
        return formula.relu.reference(x)
    y = entrywise("relu", "forward", x)
    return y, (y,)


def backward(dy, y, into=None):
    if not has_instance(y):
        return formula.relu.reference_backward(dy, y)
    return (entrywise("relu", "backward", dy, y),)


relu = forward, backward
