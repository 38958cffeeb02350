"""Processes that read a part of the texts each."""
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """So many of them. What they have not begun when the block is left, by Ctrl-C for instance, is not begun."""
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _serve)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _serve() -> None:
    """Ctrl-C reaches every process of a terminal; it is the parent that answers. And where that is killed, its children
    would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent                                            # this runs in a child
    parent.join()
    os._exit(1)
