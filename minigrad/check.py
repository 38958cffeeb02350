"""One way to refuse bad input: say who refuses, what was got, what was expected, and what to do."""
import os
import sys


def expect(ok, who, got, want, hint=""):
    """Raise ValueError("who: got ...; expected .... Hint: ...") unless ok."""
    if not ok:
        raise ValueError(f"{who}: got {got}; expected {want}" + (f". Hint: {hint}" if hint else ""))


def expect_floats(who, *arrays):
    """Refuse arrays of integers and booleans: a result in their dtype would be cut off at the point."""
    for a in arrays:
        if a.dtype.kind not in "fV":                         # V: bfloat16
            expect(False, who, f"an array of {a.dtype}", "floats", "astype('float32')")


def lasting_streams():
    """No long work is to end because a stream was closed, or has no letters for a Hindi verse."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def exit_status(work):
    """Of a command: what work() returns, or 0; 2 for an error that its user can mend, which is said; 130 for Ctrl-C."""
    lasting_streams()
    try:
        status = work()
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:                                  # head, or less, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
