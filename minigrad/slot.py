"""Where the gradient of a leaf is summed, and two words between the engine and a backward: see tensor.py."""
import weakref


class _Word:
    """SKIP and DONE: words between the engine and a backward function."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


SKIP, DONE = _Word("SKIP"), _Word("DONE")


class Loan:
    """A slot's array, until somebody else writes to it; from then on a copy of what the borrower had put there."""
    __slots__ = ("array", "__weakref__")

    def __init__(self, array):
        self.array = array


class Slot:
    """Where the gradient of a leaf is summed: float32 or wider. empty: what the array holds does not count.

    owner: the optimiser in whose flat buffer the array lies, or None.
    """
    __slots__ = ("array", "empty", "owner", "borrower")

    def __init__(self, array, owner=None):
        self.array, self.empty, self.owner, self.borrower = array, True, owner, None

    def lend(self):
        """A Loan to a forward, to be handed to claim() in its backward; None if the array is not free."""
        if not self.empty or self.borrower is not None and self.borrower() is not None:
            return None
        loan = Loan(self.array)
        self.borrower = weakref.ref(loan)               # a graph that is dropped gives the array back
        return loan

    def free(self, loan=None):
        """To be called before the array is written: a borrower other than loan goes on with a copy."""
        if self.borrower is not None:
            borrower, self.borrower = self.borrower(), None
            if borrower is not None and borrower is not loan:
                borrower.array = borrower.array.copy()

    def claim(self, loan=None):
        """(array, beta): the caller now sets array = beta array + gradient, beta being 0 or 1."""
        self.free(loan)
        beta = 0 if self.empty else 1
        self.empty = False
        return self.array, beta

    def add(self, g):
        array, beta = self.claim()
        if beta:
            array += g
        else:
            array[...] = g
