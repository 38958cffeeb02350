"""The stand-in for CuPy: as strict as CuPy, it sees who waits, and a graph does what was captured."""
import sys

import numpy as np
import pytest
from opcases import CASES
from test_ops import floats

from minigrad import Tensor, backend, kernels, using
from minigrad.blas_gpu import gemm
from minigrad.emulator import emulator, fake_cupy
from minigrad.slot import SKIP


@pytest.fixture
def cp():
    with fake_cupy.installed() as module:
        yield module


def test_it_is_there_only_while_it_is_asked_for():
    assert backend.cupy() is None or "fake" not in backend.cupy().__name__
    with fake_cupy.installed() as cp:
        assert backend.cupy() is cp and backend.on_gpu(cp.zeros(3)) and backend.xp_of(cp.zeros(3)) is cp
        assert isinstance(backend.to_device(np.ones(3), "gpu"), cp.ndarray)
    assert sys.modules.get("cupy") is not fake_cupy and not backend.on_gpu(cp.zeros(3))


REFUSED = {
    "host array in arithmetic": lambda cp, a: a + np.ones(3),
    "host array first": lambda cp, a: np.ones(3) * a,
    "host array in a function": lambda cp, a: cp.where(a > 0, a, np.ones(3)),
    "host array assigned": lambda cp, a: a.__setitem__(..., np.ones(3)),
    "host array added in place": lambda cp, a: a.__iadd__(np.ones(3)),
    "NumPy's view of it": lambda cp, a: np.asarray(a),
    "initial": lambda cp, a: a.max(initial=0),
    "errstate": lambda cp, a: cp.errstate(all="ignore"),
    "NumPy's math": lambda cp, a: np.ones(3).dot(a),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cupy_refuses(cp, what):
    with pytest.raises((TypeError, AttributeError)):
        REFUSED[what](cp, cp.arange(3.0))


WAITS = {
    "float": (lambda cp, a: float(a[0]), 1), "int": (lambda cp, a: int(a[0]), 1), "bool": (lambda cp, a: bool(a[0]), 1),
    "item": (lambda cp, a: a[0].item(), 1), "get": (lambda cp, a: a.get(), 1), "tolist": (lambda cp, a: a.tolist(), 1),
    "asnumpy": (lambda cp, a: backend.asnumpy(a), 1), "if": (lambda cp, a: 1 if a.sum() > 0 else 2, 1),
    "mask": (lambda cp, a: a[a > 0], 1), "nonzero": (lambda cp, a: cp.nonzero(a), 1),
    "print": (lambda cp, a: str(a), 1),
    "stream": (lambda cp, a: cp.cuda.get_current_stream().synchronize(), 1),
    "arithmetic": (lambda cp, a: (a * 2 + a.sum() / 3 - np.float32(1)).astype("f4"), 0),
    "masked assignment": (lambda cp, a: a.__setitem__(a > 0, 1), 0), "gather": (lambda cp, a: a[[0, 2]], 0),
    "upload": (lambda cp, a: cp.asarray(np.ones(3)), 0), "get later": (lambda cp, a: a.get(blocking=False), 0),
    "NumPy's function": (lambda cp, a: np.exp(a), 0), "len": (lambda cp, a: len(a), 0),
}


@pytest.mark.parametrize("what", WAITS)
def test_who_waits(cp, what):
    f, count = WAITS[what]
    with fake_cupy.waits() as seen:
        f(cp, cp.arange(3.0))
    assert len(seen) == count, seen
    assert all(__file__ in line or "backend" in line for line in seen)


def test_results_are_arrays_and_views_share_memory(cp):
    a = cp.arange(6.0).reshape(2, 3)
    assert all(isinstance(x, cp.ndarray) and x.shape == () for x in (a.sum(), a[0, 0], a.max(), a[0, 0] + 1))
    a[0][1:] = 7
    a.T[0, 0] += 5
    np.testing.assert_array_equal(a.get(), [[5, 7, 7], [3, 4, 5]])
    np.testing.assert_array_equal((1 - a).get(), 1 - a.get())
    assert (a @ a.T).get().tolist() == (a.get() @ a.get().T).tolist()


def test_a_copy_that_nobody_has_waited_for_is_garbage(cp):
    a, out, event = cp.full(3, 2.0), np.zeros(3), cp.cuda.Event()
    a.get(out=out, blocking=False)
    event.record()
    a[...] = 9                                                             # behind the copy
    assert np.isnan(out).all()
    event.synchronize()
    assert out.tolist() == [2, 2, 2]


def test_a_graph_repeats_what_was_captured(cp):
    a, total, scale = cp.ones(3), cp.zeros(()), 2.0
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        b = (a * scale)[::-1]
        a += 1
        total[...] = b.sum()
        with pytest.raises(fake_cupy.CUDARuntimeError, match="capturing"):
            float(total)
        with pytest.raises(fake_cupy.CUDARuntimeError, match="H2D"):
            cp.asarray(np.ones(3))
        graph = stream.end_capture()
    assert a.get().tolist() == [1, 1, 1] and total == 0                    # nothing has run yet
    scale = 100.0                                                          # too late: host values are frozen
    for n in (1, 2, 3):
        graph.launch(stream)
        assert a.get().tolist() == [n + 1] * 3 and float(total) == 6 * n


def test_memory_is_counted_and_can_be_short(cp):
    pool = cp.get_default_memory_pool()
    before = pool.used_bytes()
    a = cp.zeros(1000, "f4")
    b = a[10:].reshape(-1)
    assert pool.used_bytes() == before + 4096
    del a
    assert pool.used_bytes() == before + 4096                              # the view holds it
    del b
    assert pool.used_bytes() == before
    own = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(own.malloc):
        c = cp.ones(100, "f4")
    assert own.used_bytes() == 512 and pool.used_bytes() == before and c.sum() == 100
    pool.set_limit(before + 1000)
    try:
        with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="allocating 4,096 bytes"):
            cp.zeros(1000, "f4")
    finally:
        pool.set_limit(0)


@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
@pytest.mark.parametrize("mode", ["reference", "auto"])
@pytest.mark.parametrize("name", sorted({c.op.name for c in CASES}))
def test_every_op_runs_on_device_arrays_and_waits_for_nothing(cp, name, mode):
    """But for two that say so: a mask as an index, and the reference of embedding, which checks ids."""
    for case in [c for c in CASES if c.op.name == name]:
        arrays = case.arrays("float32")
        mine = [cp.asarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
        into = tuple(None if floats(a) else SKIP for a in arrays if a is not None)
        with using("reference"), np.errstate(all="ignore"):
            want, _ = kernels.choose(case.op, arrays)[0](*arrays, **case.params)
        with using(mode):
            for _ in range(2):                             # the first time, algorithms are timed
                with fake_cupy.waits() as seen:
                    forward, backward = kernels.choose(case.op, mine)
                    y, saved = forward(*mine, **case.params)
                    dys = [cp.ones(t.shape, t.dtype) for t in (y if isinstance(y, tuple) else (y,))]
                    backward(tuple(dys) if isinstance(y, tuple) else dys[0], *saved, into=into)
        if not (name == "getitem" or (name, mode) == ("embedding", "reference")):
            assert not seen
        for mine, theirs in zip(*((a if isinstance(a, tuple) else (a,)) for a in (y, want)), strict=True):
            assert isinstance(mine, cp.ndarray) and mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine.get(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
def test_a_captured_product_keeps_its_description(cp):
    """The same plan, asked again with another bias, does not change what the graph does."""
    a, b, ones, twos = cp.ones((16, 8), "f4"), cp.ones((8, 24), "f4"), cp.full(24, 1, "f4"), cp.full(24, 2, "f4")
    out, other = cp.zeros((16, 24), "f4"), cp.zeros((16, 24), "f4")
    gemm(a, b, other, bias=twos)                           # timed before the capture
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        gemm(a, b, out, bias=ones)
        graph = stream.end_capture()
    gemm(a, b, other, bias=twos)
    assert not out.get().any()
    graph.launch()
    assert (out.get() == 9).all() and (other.get() == 10).all()


def test_a_tensor_on_the_device(cp):
    x = Tensor(cp.arange(4.0), requires_grad=True)
    (x * x).sum().backward()
    assert x.grad.get().tolist() == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="one device"):
        x + Tensor(np.ones(4))
