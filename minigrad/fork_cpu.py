"""Fork and join in compiled code: each(pool, kernel, n, pieces, args) is kernel(*args, lo, hi) over range(n), by all.

Helpers are threads that stay inside serve() for good, without the GIL. A caller publishes a job, all take pieces of
it until none is left, and the caller returns when the last piece is done. A job costs half a microsecond while the
helpers are awake, and fifty and more to wake them; in a virtual machine, whose idle processors are somebody else's
by then, hundreds. So whoever has to wait looks for a millisecond before it sleeps. But every 50 microseconds it offers
its processor to others, and if another process takes it twice, all sleep at the first of these offers for a second:
to stay awake beside a busy neighbour would use up our share of the processor before there is work to do.

One word, the ticket, is the job's number, how many pieces it has and how many of them are taken:

    ticket = number << 32 | pieces << 16 | taken                                           [FJ1]

A piece is taken by exchanging the ticket that was read for the one that counts it; this fails if anybody took a piece
since, or began another job. So whoever succeeds may read the job's description: it cannot change before that piece is
done. A helper that the operating system has not scheduled, beside a busy neighbour, has taken nothing and holds nobody
up; a caller who has to wait for a piece sleeps too in the end, so that its processor is free for whoever holds it.

The words of a pool lie on cache lines of their own. POSIX mutexes and conditions put threads to sleep.
"""
import ctypes
import os
import platform
import threading
import time
from types import FunctionType

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minigrad.jit_cpu import jit, plain

LINE = 64
TICKET, DONE, ASLEEP, JOB, BUSY, HELPERS, WAITING, FAILED, CROWDED, MUTEX, CONDITION = (
    LINE * i for i in range(1, 12))
SPIN = 2000          # looks between two offers of the processor: some 50 microseconds
OFFERS = 20          # offers before going to sleep
TAKEN = 500_000      # nanoseconds after which a processor that comes back was used by somebody
AGAIN = 10 ** 8      # if that happens twice within so many nanoseconds,
CROWD = 10 ** 9      # somebody is thought to want it for so many more
MOST = 1 << 15       # pieces of a job
CALLER = -1          # who takes part however many helpers do
FAILURE = "a kernel raised an exception on one of its ranges. Hint: is there memory left?"

POSIX = {"pthread_mutex_lock": 1, "pthread_mutex_unlock": 1, "pthread_cond_broadcast": 1, "pthread_cond_wait": 2,
         "sched_yield": 0, "clock_gettime": 2}
threads_exist = os.name == "posix"
MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 0)
for name in () if threads_exist else POSIX:      # a pool without helpers calls none of them, but LLVM wants an address
    llvmlite.binding.add_symbol(name, 1)
lock, unlock, wake, wait, offer, clock = (
    types.ExternalFunction(name, types.int32(*[types.int64] * n)) for name, n in POSIX.items())


class Pool:
    """The words of a pool and its helpers, which live as long as the process."""

    def __init__(self, helpers):
        memory, self.started = np.zeros(13 * LINE, np.uint8), 0
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))       # helpers look there after the interpreter has gone
        self.address = memory.ctypes.data + -memory.ctypes.data % LINE
        if threads_exist:
            system = ctypes.CDLL(None)
            system.pthread_mutex_init(ctypes.c_void_p(self.address + MUTEX), None)
            system.pthread_cond_init(ctypes.c_void_p(self.address + CONDITION), None)
        self.resize(helpers)

    def resize(self, helpers):
        """Let this many helpers take part."""
        set_word(self.address + HELPERS, helpers if threads_exist else 0)
        while threads_exist and self.started < helpers:
            args = self.address, self.started
            threading.Thread(target=serve, args=args, daemon=True, name=f"minigrad-{self.started + 1}").start()
            self.started += 1


# ---------------------------------------------------------------------------------- what LLVM can do and Numba cannot

WORD = ir.IntType(64)


def _at(builder, address):
    return builder.inttoptr(address, WORD.as_pointer())


@intrinsic
def peek(typing, address):
    """The word at an address."""
    def generate(context, builder, signature, args):
        return builder.load_atomic(_at(builder, args[0]), "seq_cst", 8)
    return types.int64(types.int64), generate


@intrinsic
def poke(typing, address, value):
    """Set the word at an address."""
    def generate(context, builder, signature, args):
        builder.store_atomic(args[1], _at(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64), generate


@intrinsic
def count(typing, address, change):
    """Add to the word at an address, and tell what it is then."""
    def generate(context, builder, signature, args):
        before = builder.atomic_rmw("add", _at(builder, args[0]), args[1], "seq_cst")
        return builder.add(before, args[1])
    return types.int64(types.int64, types.int64), generate


@intrinsic
def exchange(typing, address, old, new):
    """Set the word at an address to new if it is old; was it?"""
    def generate(context, builder, signature, args):
        pair = builder.cmpxchg(_at(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)
    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def relax(typing):
    """Tell the processor that this loop waits."""
    def generate(context, builder, signature, args):
        if platform.machine() in ("x86_64", "AMD64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()
    return types.void(), generate


@intrinsic
def room(typing):
    """The address of two words of this function's own."""
    def generate(context, builder, signature, args):
        return builder.ptrtoint(cgutils.alloca_once(builder, ir.ArrayType(WORD, 2)), WORD)
    return types.int64(), generate


@intrinsic
def run(typing, code, args, lo, hi):
    """Call what describe() gave for the range lo..hi. True if the kernel raised an exception."""
    def generate(context, builder, signature, args):
        function = ir.FunctionType(ir.IntType(1), [WORD] * 3)
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
    return types.boolean(*[types.int64] * 4), generate


@intrinsic
def describe(typing, kernel, args):
    """(code, args) as two words: a function of three words that calls the kernel, and where its arguments lie."""
    inputs = (*args.types, types.int64, types.int64)

    def generate(context, builder, signature, values):
        kernel.dispatcher.compile(inputs)
        compiled = kernel.dispatcher.overloads[inputs]
        context.active_code_library.add_linking_library(compiled.library)
        callee = context.declare_function(builder.module, compiled.fndesc)
        name = builder.module.get_unique_name("piece")
        piece = ir.Function(builder.module, ir.FunctionType(ir.IntType(1), [WORD] * 3), name)
        piece.linkage = "internal"
        inside = ir.IRBuilder(piece.append_basic_block())
        packed = inside.load(inside.inttoptr(piece.args[0], values[1].type.as_pointer()))
        unpacked = [inside.extract_value(packed, i) for i in range(len(args.types))]
        status, _ = context.call_conv.call_function(inside, callee, compiled.fndesc.restype, inputs,
                                                    [*unpacked, *piece.args[1:]])
        inside.ret(status.is_error)
        held = cgutils.alloca_once_value(builder, values[1])
        return context.make_tuple(builder, signature.return_type,
                                  [builder.ptrtoint(piece, WORD), builder.ptrtoint(held, WORD)])
    return types.UniTuple(types.int64, 2)(kernel, args), generate


# --------------------------------------------------------------------------------------------------------- waiting

@plain
def wanted(pool, me):
    """Is there a piece to take, for helper number me?"""
    ticket = peek(pool + TICKET)
    return (ticket & 0xffff) < (ticket >> 16 & 0xffff) and me < peek(pool + HELPERS)


@plain
def finished(pool, pieces):
    """Are all pieces of the current job done?"""
    return peek(pool + DONE) >= pieces


@plain
def now():
    """Nanoseconds since some moment."""
    at = room()
    clock(MONOTONIC, at)
    return 10 ** 9 * peek(at) + peek(at + 8)


def looker(condition):
    """look(pool, what): look until condition(pool, what). False when it is time to sleep."""
    @plain
    def look(pool, what):
        for _ in range(OFFERS):
            for _ in range(SPIN):
                if condition(pool, what):
                    return True
                relax()
            before = now()
            if before < peek(pool + CROWDED):
                return False
            offer()
            after = now()
            if after > before + TAKEN:
                if after < peek(pool + CROWDED + 8) + AGAIN:
                    poke(pool + CROWDED, after + CROWD)
                poke(pool + CROWDED + 8, after)
        return False
    return look


look_for_work, look_for_the_end = looker(wanted), looker(finished)


# ------------------------------------------------------------------------------------------------------ the protocol

@plain
def each(pool, kernel, n, pieces, args):
    """kernel(*args, lo, hi) for `pieces` ranges that cover range(n). For use inside compiled functions."""
    code, at = describe(kernel, args)
    share(pool, code, at, n, pieces)


@plain
def share(pool, code, args, n, pieces):
    """Do the job with the helpers; alone if it is one piece or the pool has another caller."""
    if n < 1:
        return
    pieces = min(n, pieces, MOST)
    if pieces < 2 or not exchange(pool + BUSY, 0, 1):
        if run(code, args, 0, n):
            raise RuntimeError(FAILURE)
        return
    poke(pool + FAILED, 0)
    poke(pool + JOB, code)
    poke(pool + JOB + 8, args)
    poke(pool + JOB + 16, n)
    poke(pool + DONE, 0)
    poke(pool + TICKET, (peek(pool + TICKET) >> 32) + 1 << 32 | pieces << 16)            # [FJ1]
    if peek(pool + ASLEEP):
        lock(pool + MUTEX)
        wake(pool + CONDITION)
        unlock(pool + MUTEX)
    take(pool, CALLER)
    if not look_for_the_end(pool, pieces):
        lock(pool + MUTEX)
        poke(pool + WAITING, 1)
        while not finished(pool, pieces):
            wait(pool + CONDITION, pool + MUTEX)
        poke(pool + WAITING, 0)
        unlock(pool + MUTEX)
    failed = peek(pool + FAILED)
    poke(pool + BUSY, 0)
    if failed:
        raise RuntimeError(FAILURE)


@plain
def take(pool, me):
    """Run pieces of the current job until none is left, or helper number me is not wanted any more."""
    while True:
        ticket = peek(pool + TICKET)
        i, pieces = ticket & 0xffff, ticket >> 16 & 0xffff
        if i >= pieces or me >= peek(pool + HELPERS):
            return
        if exchange(pool + TICKET, ticket, ticket + 1):
            n = peek(pool + JOB + 16)
            if run(peek(pool + JOB), peek(pool + JOB + 8), n * i // pieces, n * (i + 1) // pieces):
                poke(pool + FAILED, 1)
            if count(pool + DONE, 1) == pieces and peek(pool + WAITING):
                lock(pool + MUTEX)
                wake(pool + CONDITION)
                unlock(pool + MUTEX)


@jit
def set_word(address, value):
    """poke(), for callers in Python."""
    poke(address, value)


@jit
def serve(pool, me):
    """A helper's life."""
    while True:
        if not look_for_work(pool, me):
            lock(pool + MUTEX)
            count(pool + ASLEEP, 1)
            while not wanted(pool, me):
                wait(pool + CONDITION, pool + MUTEX)
            count(pool + ASLEEP, -1)
            unlock(pool + MUTEX)
        take(pool, me)


def launcher(kernel):
    """each() for one kernel, to be called from Python: launch(pool, n, pieces, *args). Kept in the kernel's cache.

    Numba's cache knows a function by its file, line and name, and by what it closes over; kernels differ from process
    to process there. So the kernel is a global of the function, which gets the kernel's file and line for its own.
    """
    function = kernel.py_func
    code = _launch.__code__.replace(co_filename=function.__code__.co_filename,
                                    co_firstlineno=function.__code__.co_firstlineno)
    launch = FunctionType(code, dict(describe=describe, share=share, kernel=kernel, __name__=function.__module__))
    launch.__qualname__ = f"{function.__qualname__}.launch"
    return jit(launch)


# each() again, without a layer to compile; kernel is a global that launcher() provides.
def _launch(pool, n, pieces, *args):
    code, at = describe(kernel, args)  # noqa: F821
    share(pool, code, at, n, pieces)
