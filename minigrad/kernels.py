"""Which implementation runs? For the op in fused/NAME.py (or ops/NAME.py):

    the NumPy/CuPy reference in NAME.py itself   always there, runs on both devices
    NAME_cpu.py                                  Numba, for NumPy arrays
    NAME.cu, launched by NAME_gpu.py             CUDA C++, for CuPy arrays

A kernel file binds the op's name to its pair:  layer_norm = forward, backward.
MINIGRAD_KERNELS=reference, or `with using("reference")`, turns kernels off, so that a debugger steps through
the formula. "emulated" runs the CUDA kernels on NumPy arrays, without a GPU: slowly, and with every access checked.
"""
import functools
import importlib
import os
from contextvars import ContextVar

from minigrad import backend
from minigrad.backend import during
from minigrad.check import expect
from minigrad.slot import DONE, SKIP

MODES = ("auto", "reference", "emulated")
_mode = ContextVar("mode", default=os.environ.get("MINIGRAD_KERNELS", "auto"))
expect(_mode.get() in MODES, "MINIGRAD_KERNELS", repr(_mode.get()), f"one of {', '.join(MODES)}")

# None, or watch(name, *functions), which gives what runs in their place. An op comes as forward and backward, what
# kernel() decorates as one function. A profile and a search for the first NaN look in here.
watcher = ContextVar("watcher", default=None)


def using(mode):
    """Run references or kernels for the length of a with block, in this thread."""
    expect(mode in MODES, "using", repr(mode), f"one of {', '.join(MODES)}")
    return during(_mode, mode)


def choose(op, arrays):
    """The (forward, backward) that will run op on these arrays."""
    device = device_for(arrays, op.name)
    pair = device in op.kernels and compiled(op.module, device, op.name) or (op.reference, op.reference_backward)
    if watch := watcher.get():
        pair = watch(op.name, *pair)
    return pair


def device_for(arrays, who):
    """Whose kernels may run: "gpu" also where its emulator stands in."""
    device = backend.device_of(arrays, who)
    return "gpu" if _mode.get() == "emulated" else device


def compiled(module, device, name):
    """What MODULE_DEVICE.py calls by this name; None where kernels are switched off or cannot be compiled."""
    return _pair(module, device, name) if _mode.get() != "reference" else None


@functools.cache
def _pair(module, device, name):
    """Imported at first use: import minigrad must stay fast and must not need numba."""
    try:
        return getattr(importlib.import_module(f"{module}_{device}"), name)
    except ModuleNotFoundError as e:
        if e.name in ("numba", "llvmlite", "cupy"):
            return None                   # the reference is always there
        raise


def kernel(*devices):
    """Decorate a plain array function (no gradient of its own) that has a kernel of the same name."""
    def wrap(reference):
        @functools.wraps(reference)
        def call(*arrays, **params):
            device = device_for(arrays, reference.__name__)
            f = device in devices and compiled(reference.__module__, device, reference.__name__) or reference
            if watch := watcher.get():
                f, = watch(reference.__name__, f)
            return f(*arrays, **params)
        call.reference = reference
        return call
    return wrap


def probe(seen, back=None):
    """A context in which seen(op name, input arrays, output arrays) is called after every forward, and
    back(op name, input arrays, gradients) after the backward of each."""
    def watch(name, forward, *backward):
        if not backward:                                # no op
            return (forward,)
        inputs = []

        def then_seen(*arrays, **params):
            y, saved = forward(*arrays, **params)
            if back:
                inputs[:] = arrays                      # once, though a cheap op's result may be made twice
            seen(name, arrays, y if isinstance(y, tuple) else (y,))
            return y, saved

        def then_back(dy, *saved, into=None):
            gradients = backward[0](dy, *saved, into=into)
            slots = into or [None] * len(gradients)
            back(name, inputs, [None if slot is SKIP else slot.array if g is DONE else g
                                for slot, g in zip(slots, gradients, strict=True)])
            return gradients
        return then_seen, then_back if back else backward[0]
    return during(watcher, watch)
