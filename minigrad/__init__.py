"""A tensor autograd on NumPy or CuPy arrays: every gradient written out, every one checked."""
from minigrad import methods  # noqa: F401  (attaches a + b, a @ b, x.sum(), ... to Tensor)
from minigrad.gradcheck import gradcheck
from minigrad.kernels import using
from minigrad.recompute import recompute
from minigrad.tensor import Tensor, no_grad

__all__ = ["Tensor", "gradcheck", "no_grad", "recompute", "using"]
