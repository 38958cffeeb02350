"""What a GPU can do beside its work: copies to and from the host that nobody waits for, a step recorded as a graph,
messages to other GPUs."""
from contextlib import suppress

import numpy as np

from minigrad.backend import POOLED, cupy, on_gpu
from minigrad.check import expect


class Later:
    """What an array holds now, on its way to the host: calling it gives that, as a NumPy array.

    The host waits only when it is called, or dropped: on a GPU the copy takes its turn behind what is to be computed
    before it, and comes to pinned memory. On a CPU it is made at once.
    """

    def __init__(self, x):
        self.arrived = None
        if on_gpu(x):
            pinned = cupy().cuda.alloc_pinned_memory(x.nbytes)
            self.value = np.frombuffer(pinned, x.dtype, x.size).reshape(x.shape)
            x.get(out=self.value, blocking=False)
            self.arrived = cupy().cuda.get_current_stream().record()
        else:
            self.value = x.copy()

    def __call__(self):
        self.wait()
        return self.value

    def wait(self):
        if self.arrived is not None:
            self.arrived.synchronize()
            self.arrived = None

    __del__ = wait           # else CuPy would lend the memory out while this copy is still to come to it


def uploads():
    """upload(arrays), for another thread to call: a function that gives copies of NumPy arrays on the GPU of the thread
    that called this, as every other thread has GPU 0 at first.

    They are sent off by upload(), on a stream of their own, and so beside whatever is computed there: the stream that
    computes waits for them when the function is called, the host never does.
    """
    cuda = cupy().cuda
    device, compute, copies = cuda.Device(), cuda.get_current_stream(), cuda.Stream(non_blocking=True)

    def upload(arrays):
        with device, copies:
            copied = tuple(map(cupy().empty, (a.shape for a in arrays), (a.dtype for a in arrays)))
            copies.wait_event(compute.record())      # the memory may be that of an array which is still in use there
            for there, here in zip(copied, arrays, strict=True):
                there[...] = cupy().asarray(here)    # by way of pinned memory, which CuPy keeps until it has arrived
            arrived = copies.record()

        def take():
            cupy().cuda.get_current_stream().wait_event(arrived)
            return copied
        return take
    return upload


class Repeated:
    """A function whose work on the GPU is always the same: recorded once as a CUDA graph, and then launched as a whole.

        repeated = Repeated();  repeated(f, *arrays);  repeated(f, *other_arrays);  ...

    For small models, in whose steps Python needs longer to launch a kernel than the GPU to run it. The first call runs
    f(*arrays) as it is: kernels compile, and what lives on between calls finds its place. The second records it. From
    then on f is not called; arrays are copied to where the first ones lay, and every number that f took from Python is
    what it was: what changes must lie on the device. f may not wait for the device. Temporaries come from a pool of its
    own, so that no other array can use their memory between two launches.
    """

    def __init__(self):
        self.stream, self.pool = cupy().cuda.Stream(non_blocking=True), cupy().cuda.MemoryPool()
        self.arrays, self.graph = None, None
        POOLED.add(self)

    def __call__(self, f, *arrays):
        here = cupy().cuda.get_current_stream()
        if self.arrays is None:
            self.arrays = [a.copy() for a in arrays]
            self.stream.wait_event(here.record())
            with cupy().cuda.using_allocator(self.pool.malloc), self.stream:
                f(*self.arrays)
            here.wait_event(self.stream.record())
            return
        for mine, a in zip(self.arrays, arrays, strict=True):
            expect(a.shape == mine.shape, "Repeated", f"an array {a.shape}", f"{mine.shape}, as in the first call",
                   "a graph has one shape: make another Repeated")
            mine[...] = a
        if self.graph is None:
            with cupy().cuda.using_allocator(self.pool.malloc), self.stream:
                self.stream.begin_capture()
                try:
                    f(*self.arrays)
                except BaseException:
                    with suppress(Exception):                # it may be broken off already
                        self.stream.end_capture()
                    raise
                self.graph = self.stream.end_capture()
        self.graph.launch(here)


def nccl(size, rank, address):
    """CuPy's communicator of this rank of GPUs. Ranks find each other at address (host, port), or, if that is None, by
    MPI."""
    try:
        from cupyx.distributed import NCCLBackend
        made = NCCLBackend(size, rank, *(address or ()), use_mpi=address is None)
    except (ImportError, AttributeError, NameError) as e:        # CuPy says so in ways of its own
        raise ValueError(f"NCCL: got {e!r}; expected NVIDIA's library. Hint: pip install nvidia-nccl-cu12 (or -cu13)"
                         ) from None
    made.stop()                      # of rank 0 a process by which they have found each other: it never ends by itself
    return made
