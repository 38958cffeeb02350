"""The one pool of threads: every index once, by as many threads as asked, however late a helper comes to the work."""
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import types

from minigrad import pool
from minigrad.fork_cpu import CROWDED, DONE, LINE, MOST, SPIN, count, each, look_for_the_end, now, peek, poke, relax
from minigrad.jit_cpu import jit

ROOT = Path(__file__).resolve().parents[1]
MEDIUM, LARGE = pool.SMALL, 200 * pool.SMALL           # work for a range to each thread, and for four
pthread_self = types.ExternalFunction("pthread_self", types.int64())
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a pool without helpers")


@jit
def mark(starts, visits, by, lo, hi):
    """Note where ranges start, how often every index is visited, and by which thread."""
    starts[lo] += 1
    for i in range(lo, hi):
        visits[i] += 1
        by[i] = pthread_self()


@jit
def gather(here, goal, patience, linger, hasty, by, lo, hi):
    """Wait until so many ranges are being run at once, or patience ends. Then linger, except in the hasty thread."""
    by[lo] = pthread_self()
    count(here.ctypes.data, 1)
    while peek(here.ctypes.data) < goal and patience > 0:
        relax()
        patience -= 1
    for _ in range(0 if by[lo] == hasty else linger):
        relax()


@jit
def add(x, number, lo, hi):
    for i in range(lo, hi):
        x[i] += number


@jit
def fails_at_five(x, lo, hi):
    if lo <= 5 < hi:
        raise ZeroDivisionError("in a range")


@jit
def hammer(address, jobs, pause):
    """Jobs on arrays that live no longer than they do, with pauses of many lengths: how many entries came out wrong?

    Every job adds another number, so that whoever is late, and adds to an array of a job that has ended, is found out.
    """
    wrong = 0
    for job in range(jobs):
        n, pieces = 7 * job % 61, job % 11
        x = np.zeros(n, np.int64)
        each(address, add, n, pieces, (x, job))
        for i in range(n):
            wrong += x[i] != job
        for _ in range(37 * job % pause):
            relax()
    return wrong


def marks(n):
    """Arguments for mark. An empty range at the end would start at n."""
    return np.zeros(n + 1, int), np.zeros(n, int), np.zeros(n, int)


def gathered(n, goal=None, patience=10 ** 9, linger=0, work=MEDIUM):
    """Which thread ran each range of a job that ends when `goal` (all n) ranges are being run at the same time."""
    by = np.zeros(n, int)
    pool.each(gather, n, work, np.zeros(1, int), goal or n, patience, linger, threading.get_ident(), by)
    return by


@pytest.fixture(autouse=True)
def watched():
    """Nothing here waits for ever, and what a test sets is set back."""
    faulthandler.dump_traceback_later(300, exit=True)
    before = pool.size()
    yield
    pool.set_size(before)
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request):
    """Fewer than the processors, as many, more."""
    pool.set_size(request.param)
    return request.param


# ------------------------------------------------------------------------------------------------ who runs which range

@given(st.integers(0, 40) | st.integers(0, 3 * MOST), st.integers(0, 40) | st.integers(0, 3 * MOST), st.integers(1, 5))
def test_every_index_is_visited_once(n, pieces, threads):
    pool.set_size(threads)
    starts, visits, by = marks(n)
    pool._launcher(mark)(pool.address(), n, pieces, starts, visits, by)
    assert (visits == 1).all() and len(set(by)) <= threads
    lengths = np.diff([*np.flatnonzero(starts), n])
    assert len(lengths) == starts.sum() == min(n, max(pieces, 1), MOST)                # [FJ1]
    assert n == 0 or 1 <= lengths.max() <= lengths.min() + 1


@pytest.mark.parametrize("work, per_thread", [(0, 0), (pool.SMALL - 1, 0), (pool.SMALL, 1), (100 * pool.SMALL, 1),
                                              (100 * pool.SMALL + 1, 4)])
def test_work_is_cut_as_its_size_deserves(work, per_thread, threads):
    starts, visits, by = marks(100)
    pool.each(mark, 100, work, starts, visits, by)
    assert (visits == 1).all() and starts.sum() == max(1, per_thread * threads)
    assert per_thread or set(by) == {threading.get_ident()}            # small work stays with the caller


def test_every_thread_takes_part(threads):
    by = gathered(threads)
    assert len(set(by)) == threads
    assert set(by) <= {t.ident for t in threading.enumerate() if t.name.startswith(("Main", "minigrad-"))}


def test_no_more_threads_take_part_than_asked():
    """Helpers that were needed once, and are there still."""
    pool.set_size(5)
    gathered(5)
    for size in (3, 1, 2):
        pool.set_size(size)
        time.sleep(0.01)                                               # those not wanted any more fall asleep
        assert len(set(gathered(4 * size, patience=50_000, work=LARGE))) <= size


def test_there_is_always_one_thread():
    for asked in (0, -3):
        pool.set_size(asked)
        assert pool.size() == 1 and set(gathered(1)) == {threading.get_ident()}


def test_the_number_of_threads_is_a_setting():
    for asked, want in (("0", "1"), ("-3", "1"), ("5", "5")):
        assert python("from minigrad import pool; print(pool.size())", MINIGRAD_THREADS=asked) == want + "\n"
    with pytest.raises(AssertionError, match="MINIGRAD_THREADS: got .*many.*; expected a number of threads"):
        python("from minigrad import pool; print(pool.size())", MINIGRAD_THREADS="many")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to a processor here")
def test_a_thread_for_each_processor_that_may_be_used():
    environment = {k: v for k, v in os.environ.items() if k != "MINIGRAD_THREADS"}
    code = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])"
    assert python(f"{code}; from minigrad import pool; print(pool.size())", environment) == "1\n"


# ------------------------------------------------------------------------------------------------- sleeping and waking

def test_sleeping_helpers_wake_up(threads):
    """After pauses of every length around the time after which they fall asleep, and much longer ones."""
    for pause in (*range(0, 200), 5000, 50_000):
        end = time.perf_counter() + pause * 1e-6
        while time.perf_counter() < end:
            pass
        assert len(set(gathered(threads))) == threads


def test_a_caller_who_waits_for_a_range_sleeps_too():
    """The helper does nearly all that is done. (One that comes late is waited for in the range itself: try again.)"""
    pool.set_size(2)
    for _ in range(20):
        mine, all_threads = time.thread_time(), time.process_time()
        gathered(2, linger=1_000_000)
        mine, all_threads = time.thread_time() - mine, time.process_time() - all_threads
        if mine < all_threads / 10:
            return
    raise AssertionError(f"the caller used {mine:.3f} s of processor time, of {all_threads:.3f} s")


@jit
def looked(words, done, crowded):
    """(what look() says, the nanoseconds it took) where so many pieces of one are done."""
    at = words.ctypes.data
    poke(at + DONE, done)
    poke(at + CROWDED, now() + crowded)
    before = now()
    return look_for_the_end(at, 1), now() - before


def test_who_waits_in_a_crowd_soon_sleeps():
    """Otherwise it looks 20 times as long. Nobody looks for what is there already."""
    words = np.zeros(13 * LINE, np.uint8)
    assert looked(words, 1, 0)[0] and not looked(words, 0, 0)[0] and not looked(words, 0, 10 ** 9)[0]
    quiet, crowd = (min(looked(words, 0, crowded)[1] for _ in range(20)) for crowded in (0, 10 ** 9))
    assert crowd < quiet / 5


def test_an_idle_process_uses_no_processor():
    pool.set_size(5)
    gathered(5)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.005


@pytest.mark.parametrize("pause", [1, 3 * SPIN])
def test_a_late_helper_finds_nothing_to_do(threads, pause):
    assert hammer(pool.address(), 200_000 if pause == 1 else 2000, pause) == 0


STRESS = """
import os, sys, time, subprocess
core = list(os.sched_getaffinity(0))[:{cores}]
os.sched_setaffinity(0, core)
from test_pool import hammer, pool
neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    wrong, end = 0, time.perf_counter() + 1
    while time.perf_counter() < end:
        wrong += hammer(pool.address(), 2000, 1) + hammer(pool.address(), 50, {pause})
    print(wrong)
finally:
    neighbour.kill()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to a processor here")
@pytest.mark.parametrize("cores", [1, 2])
def test_beside_a_busy_neighbour(cores):
    """Helpers that the system stops anywhere: with a range in hand, between two looks, on their way to bed."""
    assert python(STRESS.format(cores=cores, pause=2 * SPIN), MINIGRAD_THREADS="3") == "0\n"


# ---------------------------------------------------------------------------------------------------- several callers

def test_a_second_caller_does_its_job_alone(threads):
    here, by, mine = np.zeros(1, int), np.zeros(8, int), marks(64)
    other = threading.Thread(target=pool.each, args=(gather, 8, LARGE, here, 1 << 40, 10 ** 9, 0, 0, by))
    other.start()
    while not here[0]:
        time.sleep(0.001)
    pool.each(mark, 64, LARGE, *mine)                                  # while the other's job goes on
    still = other.is_alive()
    here[0] = 1 << 40
    other.join()
    starts, visits, by = mine
    assert still and starts.sum() == 1 and (visits == 1).all() and set(by) == {threading.get_ident()}


def test_several_callers_at_once_while_threads_come_and_go():
    wrong = []
    callers = [threading.Thread(target=lambda: wrong.append(hammer(pool.address(), 20_000, 3))) for _ in range(4)]
    pool.address()
    for c in callers:
        c.start()
    while any(c.is_alive() for c in callers):
        for size in (1, 4, 2, 5, 3):
            pool.set_size(size)
            time.sleep(0.001)
    assert wrong == [0] * 4


def test_an_error_reaches_the_caller(threads):
    for work in (0, MEDIUM, LARGE):
        with pytest.raises(RuntimeError, match="a kernel raised"):
            pool.each(fails_at_five, 10, work, np.zeros(10))
        assert hammer(pool.address(), 100, 1) == 0                     # the pool works on


# ---------------------------------------------------------------------------------------------------------- processes

def python(code, environment=os.environ, **more):
    """What a fresh interpreter prints, in which these kernels can be imported."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", code], env={**environment, "PYTHONPATH": path, **more}, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    pool.set_size(3)
    gathered(3)
    child = os.fork()
    if not child:
        signal.alarm(60)                                               # the watch over this test has not forked
        os._exit(len(set(gathered(3))))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert len(set(gathered(3))) == 3


@pytest.mark.parametrize("last", ["pass", "time.sleep(0.01)", "threading.Thread(target=work, daemon=True).start()"],
                         ids=["awake", "asleep", "at work"])
def test_a_process_ends_while_its_helpers_are(last):
    code = f"""
import threading, time
from test_pool import hammer, pool
work = lambda: hammer(pool.address(), 10 ** 12, 1)
print(hammer(pool.address(), 1000, 1))
{last}"""
    for _ in range(2):
        assert python(code, MINIGRAD_THREADS="3") == "0\n"


def test_what_one_process_compiled_the_next_one_finds(tmp_path):
    code = """
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    from test_pool import LARGE, hammer, mark, marks, pool
    pool.each(mark, 9, LARGE, *marks(9))
    assert hammer(pool.address(), 9, 1) == 0
print(len(compiled.buffer) > 0)"""
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path)) == "True\n"
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")}
    for name in ("mark", "mark.launch", "hammer", "serve", "set_word"):
        assert sum(f".{name}-" in file for file in kept) == 2, name    # an index and the code
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path)) == "False\n"
    assert kept == {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")}
