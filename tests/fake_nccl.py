"""CuPy's communicator without a GPU: on the arrays of fake_cupy, by NCCL's rules, between processes of MPI.

As strict as it: arrays are contiguous and of dtypes that NCCL has, counts match, what is done in place lies where NCCL
wants it, and all ranks make the same calls in the same order. Nothing waits: a result is garbage until the stream that
wants it has waited for an event behind it.
"""
import contextlib
import sys
import types

import numpy as np

from minigrad.emulator import fake_cupy


class NCCLBackend:
    calls = []                           # the names of all that was asked for

    def __init__(self, n_devices, rank, host="127.0.0.1", port=13333, use_mpi=False):
        from mpi4py import MPI
        self.mpi, self.rank, self.size = MPI.COMM_WORLD, rank, n_devices
        assert use_mpi and (rank, n_devices) == (self.mpi.rank, self.mpi.size)

    def all_gather(self, in_array, out_array, count, stream=None):
        a, out = self.taken("all_gather", in_array, out_array, count=count)
        assert a.size == count and out.size == count * self.size
        if np.may_share_memory(a, out):
            assert a.ctypes.data == out.ctypes.data + self.rank * a.nbytes
        self.later(stream, out, np.concatenate(self.mpi.allgather(a.copy())))

    def reduce_scatter(self, in_array, out_array, count, op="sum", stream=None):
        a, out = self.taken("reduce_scatter", in_array, out_array, count=count)
        assert out.size == count and a.size == count * self.size and op == "sum"
        assert not np.may_share_memory(a, out)
        parts = self.mpi.allgather(a.copy())
        self.later(stream, out, sum(p.reshape(self.size, count)[self.rank] for p in parts).astype(a.dtype))

    def broadcast(self, in_out_array, root=0, stream=None):
        a, = self.taken("broadcast", in_out_array, count=in_out_array.size)
        self.later(stream, a, self.mpi.bcast(a.copy(), root))

    def gather(self, in_array, out_array, root=0, stream=None):
        a, out = self.taken("gather", in_array, out_array, count=in_array.size)
        assert out.shape == (self.size, a.size)              # on every rank, though only one gets anything
        parts = self.mpi.gather(a.copy(), root)
        if self.rank == root:
            self.later(stream, out, np.stack(parts))

    def taken(self, name, *arrays, count):
        """The NumPy arrays inside, if NCCL would take them."""
        NCCLBackend.calls.append(name)
        assert all(a.flags.c_contiguous and a.dtype.char in "bBiIlLqQefd" for a in arrays)
        assert len({a.dtype for a in arrays}) == 1
        what = (name, int(count), arrays[0].dtype.name)
        assert self.mpi.allgather(what) == [what] * self.size, f"rank {self.rank} calls {what}, others do not"
        return [a._a for a in arrays]

    def later(self, stream, out, value):
        assert stream is not None and stream.ptr
        out = out.reshape(value.shape)
        out[...] = np.nan if out.dtype.kind == "f" else 77
        stream.pending.append((out, value))


def wait_event(stream, event):
    """What lies behind the event is there from now on, for this stream; copies to the host are still on their way."""
    there = [(out, value) for out, value in event.landing if getattr(event.stream, "ptr", 0)]
    for out, value in there:
        out[...] = value
        event.stream.pending[:] = [p for p in event.stream.pending if p[0] is not out]
    event.landing = [p for p in event.landing if not any(p[0] is out for out, _ in there)]


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
    kept = fake_cupy.Stream.wait_event, fake_cupy.Event.record
    sys.modules.update(names)
    fake_cupy.Stream.wait_event, fake_cupy.Event.record = wait_event, record
    try:
        with fake_cupy.installed():
            yield
    finally:
        fake_cupy.Stream.wait_event, fake_cupy.Event.record = kept
        for name, value in before.items():
            if value is None:
                del sys.modules[name]
            else:
                sys.modules[name] = value
