"""Many processes, called ranks, that train one model together. A group of one does nothing, at no cost.

    mpiexec -n 4 python -m train.run ...              any MPI that mpi4py finds, on one machine or many; srun --mpi=...
    torchrun --nproc-per-node 8 -m train.run --backend cupy ...
                                                      or whatever else sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
                                                      and MASTER_PORT: NCCL without MPI

Engines: MPI carries NumPy arrays, NCCL by way of CuPy those of GPUs, one to a rank. All ranks see the same folder for
runs; texts and shards may be on each machine's own disk.

The gradient of a step is the sum over ranks of what each has made of its micro-batches, which are weighted so that the
sum is the mean of all. Each of n ranks holds all parameters, but moments and masters of one n-th (nn/optim.py):
    backward      a bucket of the flat gradient buffer whose leaves are all complete is summed and dealt out
                  (reduce-scatter), while backward goes on with the leaves below
    norm          loss and sum of squares of every rank to every rank, added there in the order of the ranks: so all
                  decide alike whether a step is clipped, made, or left out because of the loss scale
    update        each rank its own part
    afterwards    every rank gets the parameters of the others (all-gather)
Together these carry as many bytes as summing all gradients everywhere would. With micro-batches only the last sends.

Texts are tokenized, validation batches scored and samples written by all: each rank makes its share, and the results
are those of one process, to the bit where as many rows go through the model at once. A tokenizer is learned by rank 0.

A rank that waits for the others gives up after Group.limit seconds and ends the job; so does one in which anything goes
wrong. Rank 0 lets a checkpoint be written first, and as long as it just waits for its disk it says so. mpiexec and
torchrun end it themselves if a rank is killed. What all must know the same (settings, code, tokens) is compared in the
beginning.

Which rank adds what first is up to the engine: with 2 ranks there is one order only, so that a run can be repeated to
the bit; with more it is the engine that promises this or not. One process adds its micro-batches up in another order,
and so its last bits are others on any number of ranks.
"""
import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np

from minigrad import backend, gpu, pool
from minigrad.check import expect
from nn import AdamW

SPIN = 2000          # looks at a message before a rank that waits for it lets others have its processor
NAP = 1e-3           # and then at most so many seconds between two
WATCH = 0.5          # seconds between two looks of a thread at what NCCL has begun
SAID = 0.5           # seconds that a launcher has to pass on what a rank said last, before it ends all of them
Result = TypeVar("Result")


class Lost(Exception):
    """Another rank has not been heard of for too long."""


class Patience:
    """The seconds that this process has waited, as far as it was there to wait. While it was suspended, others may have
    been too: what was longer than a second between two looks counts as one."""

    def __init__(self) -> None:
        self.seconds, self.looked = 0.0, time.monotonic()

    def spent(self) -> float:
        now = time.monotonic()
        self.seconds, self.looked = self.seconds + min(now - self.looked, 1.0), now
        return self.seconds


class Group:
    """One rank alone, and what all groups can do. Arrays are NumPy's, or CuPy's in a group of GPUs."""
    rank, size, xp = 0, 1, np
    limit = math.inf                 # seconds that a rank waits for another
    asked = 0.0                      # is this rank to stop?
    stopped = False                  # has one been asked to?
    done = None                      # see summing()
    ending: Callable | None = None   # ending(limit) waits for what this rank is to bring to an end before it ends all

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def on(self, device: str) -> "Group":
        """The group for arrays of "cpu" or "gpu"."""
        return self

    # what is computed together

    def number(self, micro: int) -> int:
        """Which of all micro-batches of a step this rank's micro-th is."""
        return micro * self.size + self.rank

    def sum(self, *numbers: Any) -> Sequence:
        """The sum of each over the ranks, in float64, the same bits on all."""
        return numbers

    def gather(self, array: np.ndarray) -> np.ndarray:
        """(ranks, *shape): the arrays of all ranks."""
        return array[None]

    def collect(self, array: np.ndarray) -> np.ndarray:
        """The same on the host of rank 0, and nothing on others."""
        return backend.asnumpy(array)

    def broadcast(self, array: np.ndarray) -> None:
        """Rank 0's array, in place of this one's content."""

    def summing(self, opt: AdamW) -> Any:
        """An object for one backward pass: done is to be told its leaves as they are complete, and when finish()
        returns, the optimiser has the sum of its part of the gradients."""
        return self

    def finish(self) -> None:
        pass

    def spread(self, opt: AdamW) -> None:
        """Give all parameters to all, after each rank has updated its part."""

    def complete(self, opt: AdamW) -> None:
        """Give the sums of all gradients to all, where somebody wants to look at them."""

    def stops(self, asked: object) -> bool:
        """Is the run to stop here? asked: is this rank to? It is the same on all, and so perhaps a step later."""
        return bool(asked)

    # what is done together

    def together(self, f: Callable[[], Result]) -> Result:
        """f() on every rank. If it is an error on one, it is on all."""
        return f()

    def tell(self, value: Any) -> list:
        """The values of all ranks: numbers, words, lists."""
        return [value]

    def share(self, make: Callable[[Any], Iterable], items: Any) -> list:
        """make(items), which is numbers in a row for each: of them every rank makes a part, and all have all."""
        return list(make(items))

    def first(self, f: Callable[[], Result]) -> Result:
        """What f() is on rank 0, which alone runs it: numbers, words, lists."""
        return f()

    def in_turn(self, f: Callable[[], Result]) -> Result:
        """f() on every rank, on the others when rank 0 has done it: what it leaves behind need not be made again."""
        return f()

    def only_first(self, f: Callable[[], Result]) -> Result:
        """f() on rank 0, and something that takes every call and does nothing on others."""
        return f()

    def same(self, **facts: Any) -> None:
        """An error on all ranks if a fact is not what it is on rank 0."""

    def share_processors(self) -> None:
        """Leave to each rank of a machine its share of the processors."""

    def fail(self, message: str, status: int) -> int:
        """End the job because of what happened on this rank. Returns the exit status, if it returns."""
        print(message if status == 130 else f"error: {message}", file=sys.stderr)      # Ctrl-C is none
        return status


ALONE = Group()


class Silence:
    """Stands on other ranks for what only rank 0 has."""

    def __getattr__(self, name):
        return lambda *_, **__: ""


class Ranks(Group):
    """More than one. A subclass moves arrays: gather, collect, broadcast, and what raises NotImplementedError here."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.quiet = contextlib.ExitStack()

    def deal(self, array: Any, out: Any) -> None:
        """Begin to sum an array over the ranks, and to put this rank's piece of the sum into out."""
        raise NotImplementedError

    def fill(self, array: Any) -> None:
        """Begin to put the pieces that other ranks have of it into an array that has this rank's."""
        raise NotImplementedError

    def look(self) -> None:
        """Let what was begun go on, where that needs a push."""

    def arrive(self) -> None:
        """Until all that was begun is there."""
        raise NotImplementedError

    def abort(self, status: int) -> NoReturn:
        """End all ranks."""
        raise NotImplementedError

    def __enter__(self):
        if self.rank:                                        # one of them talks
            nothing = self.quiet.enter_context(open(os.devnull, "w"))
            self.quiet.enter_context(contextlib.redirect_stdout(nothing))
            self.quiet.enter_context(contextlib.redirect_stderr(nothing))
        return self

    def __exit__(self, kind, error, trace):
        self.quiet.close()
        if kind is not None and not issubclass(kind, SystemExit):
            short = issubclass(kind, (Lost, KeyboardInterrupt))
            self.fail(str(error) or kind.__name__ if short else "".join(traceback.format_exception(error)), 1)

    def fail(self, message: str, status: int) -> int:
        print(f"\nerror: rank {self.rank} of {self.size}: {message}", file=sys.__stderr__, flush=True)
        if self.ending:
            self.ending(self.limit)
        time.sleep(SAID)
        self.abort(status)

    def sum(self, *numbers: Any) -> Sequence:
        rows = self.gather(self.xp.stack([self.xp.asarray(x, "float64") for x in numbers]))
        total = rows[0].copy()
        for row in rows[1:]:
            total += row
        return [total[k] for k in range(len(numbers))]

    def summing(self, opt: AdamW) -> "Summing":
        return Summing(self, opt)

    def spread(self, opt: AdamW) -> None:
        for flat in opt.flats:
            for lo, hi in flat.buckets:
                self.fill(flat.data[lo:hi])
        self.arrive()

    def complete(self, opt: AdamW) -> None:
        for flat in opt.flats:
            for (lo, hi), (a, b, at) in zip(flat.buckets, flat.pieces):
                flat.grads[a:b] = flat.mine[at:at + b - a]
                self.fill(flat.grads[lo:hi])
        self.arrive()

    def stops(self, asked: object) -> bool:
        self.asked = float(bool(asked))
        return self.stopped

    def bytes(self, mine: np.ndarray) -> list[np.ndarray]:
        """The bytes of all ranks, in arrays of any size."""
        sizes = backend.asnumpy(self.gather(self.xp.asarray([mine.size]))).ravel()
        padded = np.zeros(max(1, *sizes), np.uint8)
        padded[:mine.size] = mine
        return [row[:size] for row, size in zip(backend.asnumpy(self.gather(self.xp.asarray(padded))), sizes)]

    def tell(self, value: Any) -> list:
        mine = np.frombuffer(json.dumps(value, default=str).encode(), np.uint8)
        return [json.loads(theirs.tobytes()) for theirs in self.bytes(mine)]

    def share(self, make: Callable[[Any], Iterable], items: Any) -> list:
        mine = items[len(items) * self.rank // self.size:len(items) * (self.rank + 1) // self.size]
        made = self.together(lambda: list(make(mine)) if mine else [])
        whole = np.concatenate(made) if made else np.empty(0)
        about, parts = self.tell([whole.dtype.str, [*map(len, made)]]), self.bytes(whole.view(np.uint8))
        return [row for (dtype, sizes), part in zip(about, parts) if sizes
                for row in np.split(part.view(dtype), np.cumsum(sizes)[:-1])]

    def together(self, f: Callable) -> Any:
        problem: tuple[bool, str] | None = None
        result: Any = None
        try:
            result = f()
        except (ValueError, OSError) as e:
            problem = isinstance(e, OSError), str(e) or repr(e)
        for rank, theirs in enumerate(self.tell(problem)):
            if theirs:
                system, words = theirs
                raise (OSError if system else ValueError)(f"rank {rank}: {words}" if rank else words)
        return result

    def first(self, f: Callable) -> Any:
        return self.tell(self.together(f if self.rank == 0 else lambda: None))[0]

    def in_turn(self, f: Callable) -> Any:
        found = self.together(f if self.rank == 0 else lambda: None)
        later = self.together(f if self.rank else lambda: None)
        return later if self.rank else found

    def only_first(self, f: Callable) -> Any:
        return self.together(Silence if self.rank else f)

    def same(self, **facts: Any) -> None:
        found = self.tell(facts)
        for rank, theirs in enumerate(found):
            for name, want in found[0].items():
                expect(theirs[name] == want, f"rank {rank}", f"{name} {theirs[name]!r}", f"{want!r}, as on rank 0",
                       "the same command, code and data on all ranks")

    def share_processors(self) -> None:
        if not hasattr(os, "sched_setaffinity"):
            return
        mine = sorted(os.sched_getaffinity(0))
        here = [socket.gethostname(), mine]
        found = self.tell(here)
        beside = [rank for rank, theirs in enumerate(found) if theirs[0] == here[0]]
        if any(found[rank] != here for rank in beside):      # the launcher has shared them out already
            return
        k, n, many = beside.index(self.rank), len(beside), len(mine)
        share = mine[k * many // n:(k + 1) * many // n] or [mine[k % many]]
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), share)
        if "MINIGRAD_THREADS" not in os.environ:
            pool.set_size(len(share))


class Summing:
    """The gradients of one backward pass, summed over the ranks bucket by bucket.

    All ranks run the same graph, so their buckets are complete in the same order.
    """

    def __init__(self, group: "Ranks", opt: AdamW) -> None:
        self.group, self.opt, self.buckets, self.of = group, opt, [], {}
        for flat in opt.flats:
            for (lo, hi), (a, b, at) in zip(flat.buckets, flat.pieces):
                inside = [p for p, s in zip(flat.params, flat.starts) if s < hi and s + p.size > lo]
                for p in inside:
                    self.of.setdefault(id(p), []).append(len(self.buckets))
                self.buckets.append([len(inside), flat.grads[lo:hi], flat.mine[at:at + b - a]])

    def done(self, leaf):
        """All that this rank adds to the gradient of a leaf has been added."""
        if leaf.slot.empty:
            leaf.slot.add(0)
        for k in self.of.get(id(leaf), ()):
            self.buckets[k][0] -= 1
            if self.buckets[k][0] == 0:
                self.group.deal(*self.buckets[k][1:])
        self.group.look()

    def finish(self) -> None:
        for flat in self.opt.flats:
            flat.fill_gaps()
        for missing, grads, mine in self.buckets:
            if missing:                                      # something in it has no gradient
                self.group.deal(grads, mine)
        self.group.arrive()


# ---------------------------------------------------------------------------------------------------------- engines

class MPI(Ranks):
    """Ranks that mpiexec or srun has started, and their NumPy arrays."""

    def __init__(self, mpi: Any) -> None:
        self.mpi, self.world, self.begun = mpi, mpi.COMM_WORLD, []
        super().__init__(self.world.rank, self.world.size)

    def on(self, device: str) -> Ranks:
        if device == "cpu":
            return self
        hosts = self.tell(socket.gethostname())
        return NCCL(self.rank, self.size, hosts[:self.rank].count(hosts[self.rank]), self)

    def abort(self, status: int) -> NoReturn:
        self.world.Abort(status)
        os._exit(status)

    def wait(self, name: str, request: Any) -> None:
        """Look, then look less often: ranks may have to share a processor, with each other or with a thread."""
        patience, looks = Patience(), 0
        while not request.Test():
            looks += 1
            if looks > SPIN:
                time.sleep(min(NAP, 1e-5 * (looks - SPIN)))
                if patience.spent() > self.limit:
                    raise Lost(LOST.format(self.limit, name))
            elif hasattr(os, "sched_yield"):
                os.sched_yield()

    def gather(self, array: np.ndarray) -> np.ndarray:
        array = np.ascontiguousarray(array)
        found = np.empty((self.size, *array.shape), array.dtype)
        self.wait("numbers of all", self.world.Iallgather(_bytes(array), _bytes(found)))
        return found

    def collect(self, array: np.ndarray) -> np.ndarray:
        found = np.empty((0 if self.rank else self.size, *array.shape), array.dtype)
        self.wait("the state of all", self.world.Igather(_bytes(array), None if self.rank else _bytes(found), 0))
        return found

    def broadcast(self, array: np.ndarray) -> None:
        whole = np.ascontiguousarray(array)
        self.wait("rank 0's weights", self.world.Ibcast(_bytes(whole), 0))
        if whole is not array:
            array[...] = whole

    def fill(self, array: np.ndarray) -> None:
        self.begun.append(("the others' parts", self.world.Iallgather(self.mpi.IN_PLACE, _bytes(array))))

    def deal(self, array: np.ndarray, out: np.ndarray) -> None:
        self.begun.append(("the sum of gradients", self.world.Ireduce_scatter_block(array, out)))

    def look(self) -> None:
        if self.begun:                                       # a look at one lets MPI go on with all
            self.begun[0][1].Test()

    def arrive(self) -> None:
        for name, request in self.begun:
            self.wait(name, request)
        self.begun.clear()


@dataclass
class Begun:
    """What NCCL was asked to do, and the event behind it, once the call has returned."""
    name: str
    patience: "Patience"
    event: object = None


class NCCL(Ranks):
    """Ranks with a GPU each. host: the group of MPI that started them, if one did.

    All goes through one stream beside the one that computes, so the host waits for nothing; a thread looks whether what
    was begun comes to an end in time.
    """

    def __init__(self, rank: int, size: int, here: int, host: MPI | None = None,
                 address: tuple[str, int] | None = None) -> None:
        super().__init__(rank, size)
        self.host, self.xp = host, backend.cupy()
        self.device = self.xp.cuda.Device(here % self.xp.cuda.runtime.getDeviceCount())
        self.device.use()
        self.comm = gpu.nccl(size, rank, address)
        self.stream, self.begun = self.xp.cuda.Stream(non_blocking=True), deque()
        self.thread = threading.Thread(target=self.watch, daemon=True, name="watchdog")
        self.thread.start()

    def on(self, device: str) -> Ranks:
        expect(device == "gpu", "--backend numpy", "ranks that were started without MPI", "MPI for ranks on CPUs",
               "mpiexec -n N python -m train.run ..., or --backend cupy")
        return self

    def abort(self, status: int) -> NoReturn:
        if self.host:
            self.host.abort(status)
        os._exit(status)

    def watch(self) -> None:
        try:
            with self.device:
                while True:
                    time.sleep(WATCH)
                    while self.begun and self.begun[0].event and self.begun[0].event.done:
                        self.begun.popleft()
                    if self.begun and self.begun[0].patience.spent() > self.limit:
                        raise Lost(LOST.format(self.limit, self.begun[0].name))
        except Exception as e:                               # or the device has failed; nobody else would say so
            self.fail(str(e) or repr(e), 1)

    def issue(self, name: str, call: Callable, *args: Any) -> None:
        """Begin a call of NCCL behind what has been computed so far."""
        self.stream.wait_event(self.xp.cuda.get_current_stream().record())
        begun = Begun(name, Patience())
        self.begun.append(begun)                             # before the call: that may already wait for others
        call(*args, stream=self.stream)
        begun.event = self.stream.record()

    def arrive(self) -> None:
        self.xp.cuda.get_current_stream().wait_event(self.stream.record())

    def gather(self, array: Any) -> Any:
        array = self.xp.ascontiguousarray(array)
        found = self.xp.empty((self.size, *array.shape), array.dtype)
        self.issue("numbers of all", self.comm.all_gather, _bytes(array), _bytes(found), array.nbytes)
        self.arrive()
        return found

    def collect(self, array: Any) -> np.ndarray:
        found = self.xp.empty((self.size, array.nbytes), np.uint8)
        self.issue("the state of all", self.comm.gather, _bytes(array), found, 0)
        self.arrive()
        return np.empty((0, array.size), array.dtype) if self.rank else backend.asnumpy(found).view(array.dtype)

    def broadcast(self, array: Any) -> None:
        whole = self.xp.ascontiguousarray(array)
        self.issue("rank 0's weights", self.comm.broadcast, _bytes(whole), 0)
        self.arrive()
        if whole is not array:
            array[...] = whole

    def fill(self, array: Any) -> None:
        array, n = _bytes(array), array.nbytes // self.size
        self.issue("the others' parts", self.comm.all_gather, array[self.rank * n:(self.rank + 1) * n], array, n)

    def deal(self, array: Any, out: Any) -> None:
        self.issue("the sum of gradients", self.comm.reduce_scatter, array, out, out.size, "sum")


LOST = ("no word from another rank for {:g} s, waiting for {}. Hint: --resume goes on from the last checkpoint; "
        "--lost_after S waits longer")


def _bytes(array):
    return array.reshape(-1).view(np.uint8)


def launched() -> tuple[str, int, int]:
    """(the launcher's word for it, rank, size) of this process, as far as the environment tells: mpi, env or alone."""
    e = os.environ
    for rank, size in (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
                       ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"), ("RANK", "WORLD_SIZE")):
        if rank in e and size in e and int(e[size]) > 1:
            return "env" if rank == "RANK" else "mpi", int(e[rank]), int(e[size])
    expect(int(e.get("SLURM_STEP_NUM_TASKS", 1)) == 1 or "SLURM_PROCID" not in e, "srun",
           f"{e.get('SLURM_STEP_NUM_TASKS')} tasks that know of each other neither by MPI nor by RANK and WORLD_SIZE",
           "one of these", "srun --mpi=pmi2 or --mpi=pmix, as the MPI under mpi4py wants it")
    return "alone", 0, 1


def world() -> Group:
    """The group of all processes that a launcher has started beside this one."""
    how, rank, size = launched()
    if how == "alone":
        return ALONE
    if how == "env":
        expect(backend.cupy(), "RANK and WORLD_SIZE", "no GPU that CuPy can use", "one for every rank",
               "on CPUs: mpiexec -n N python -m train.run ...")
        address = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", 29500)) + 1
        return NCCL(rank, size, int(os.environ.get("LOCAL_RANK", rank)), None, address)
    try:
        import mpi4py
        mpi4py.rc.thread_level = "funneled"
        from mpi4py import MPI as mpi
    except (ImportError, RuntimeError) as e:
        raise ValueError(f"{size} ranks: got {e}; expected mpi4py. Hint: pip install mpi4py, and mpich or the MPI of "
                         "this cluster (this package's extra mpi)") from None
    found = mpi.COMM_WORLD.size
    expect(found == size, "mpi4py", f"{found} rank(s) where the launcher has started {size}",
           "the MPI that mpiexec belongs to", "python -m mpi4py --mpi-lib-version says which one it uses")
    return MPI(mpi)


def run(work: Callable[[Group], int]) -> int:
    """The exit status that work(group) returns, for that group."""
    try:
        group = world()
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    with group:
        return work(group)
