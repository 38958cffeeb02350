"""CuPy's communicator without a GPU: on the arrays of fake_cupy, by NCCL's rules, between processes of MPI.

As strict as it: arrays are contiguous and of dtypes that NCCL has, counts match, what is done in place lies where NCCL
wants it, and all ranks make the same calls in the same order. No call waits: a result is garbage until the stream that
wants it has waited for an event behind it. There the host waits too, as here it is the host that computes.
"""
import contextlib
import sys
import time
import types

import numpy as np

from minigrad.emulator import fake_cupy


class NCCLBackend:
    calls = []                           # the names of all that was asked for

    def __init__(self, n_devices, rank, host="127.0.0.1", port=13333, use_mpi=False):
        from mpi4py import MPI
        self.mpi, self.rank, self.size = MPI.COMM_WORLD, rank, n_devices
        assert use_mpi and (rank, n_devices) == (self.mpi.rank, self.mpi.size)

    def stop(self):
        pass                             # MPI has told the ranks of each other

    def all_gather(self, in_array, out_array, count, stream=None):
        a, out = self.taken("all_gather", in_array, out_array, count=count)
        assert a.size == count and out.size == count * self.size
        if np.may_share_memory(a, out):
            assert a.ctypes.data == out.ctypes.data + self.rank * a.nbytes
        self.later(stream, out, "all_gather", a, lambda parts: parts)

    def reduce_scatter(self, in_array, out_array, count, op="sum", stream=None):
        a, out = self.taken("reduce_scatter", in_array, out_array, count=count)
        assert out.size == count and a.size == count * self.size and op == "sum"
        assert not np.may_share_memory(a, out)
        self.later(stream, out, "reduce_scatter", a,
                   lambda parts: sum(p.reshape(self.size, count)[self.rank] for p in parts).astype(a.dtype))

    def broadcast(self, in_out_array, root=0, stream=None):
        a, = self.taken("broadcast", in_out_array, count=in_out_array.size)
        self.later(stream, a, "broadcast", a, lambda parts: parts[root])

    def gather(self, in_array, out_array, root=0, stream=None):
        a, out = self.taken("gather", in_array, out_array, count=in_array.size)
        assert out.shape == (self.size, a.size)              # on every rank, though only one gets anything
        self.later(stream, out, "gather", a, lambda parts: parts if self.rank == root else np.full_like(parts, 77))

    def taken(self, name, *arrays, count):
        """The NumPy arrays inside, if NCCL would take them."""
        NCCLBackend.calls.append(name)
        assert all(a.flags.c_contiguous and a.dtype.char in "bBiIlLqQefd" for a in arrays)
        assert len({a.dtype for a in arrays}) == 1
        return [a._a for a in arrays]

    def later(self, stream, out, name, a, result):
        """Tell the others this call and its array, and return at once; out becomes result(arrays of all ranks)."""
        assert stream is not None and stream.ptr
        mine = np.array([f"{name} {a.size} {a.dtype}"], "S64"), a.reshape(1, -1).copy()
        theirs = [np.empty((self.size, x[0].size), x.dtype) for x in mine]
        sent = [self.mpi.Iallgather(x.view(np.uint8), y.view(np.uint8)) for x, y in zip(mine, theirs)]

        def value():
            while not all([request.Test() for request in sent]):
                time.sleep(1e-3)                             # a thread may look meanwhile how long this takes
            calls, parts = theirs
            assert (calls == mine[0]).all(), f"rank {self.rank} calls {mine[0]}, others do not: {calls}"
            return result(parts)
        flat = out.reshape(-1)
        flat[...] = np.nan if out.dtype.kind == "f" else 77
        stream.pending.append((flat, value))


def wait_event(stream, event):
    """What lies behind the event is there from now on, for this stream; copies to the host are still on their way."""
    if getattr(event.stream, "ptr", 0):
        for out, value in event.landing:
            if any(out is waiting for waiting, _ in event.stream.pending):
                out[...] = value().reshape(-1)
                event.stream.pending[:] = [p for p in event.stream.pending if p[0] is not out]


def done(event):
    return not any(out is waiting for waiting, _ in event.stream.pending for out, _ in event.landing)


def record(event, stream=None, real=fake_cupy.Event.record):
    event.stream = stream or fake_cupy.state.stream
    real(event, stream)


@contextlib.contextmanager
def installed():
    """`from cupyx.distributed import NCCLBackend` gives this one inside."""
    module = types.ModuleType("cupyx.distributed")
    module.NCCLBackend = NCCLBackend
    names = {"cupyx": types.ModuleType("cupyx"), "cupyx.distributed": module}
    before = {name: sys.modules.get(name) for name in names}
    kept = fake_cupy.Stream.wait_event, fake_cupy.Event.record, fake_cupy.Event.done
    sys.modules.update(names)
    fake_cupy.Stream.wait_event, fake_cupy.Event.record, fake_cupy.Event.done = wait_event, record, property(done)
    try:
        with fake_cupy.installed():
            yield
    finally:
        fake_cupy.Stream.wait_event, fake_cupy.Event.record, fake_cupy.Event.done = kept
        for name, value in before.items():
            if value is None:
                del sys.modules[name]
            else:
                sys.modules[name] = value
