"""One way to refuse bad input: say who refuses, what was got, what was expected, and what to do."""


def expect(ok, who, got, want, hint=""):
    """Raise ValueError("who: got ...; expected .... Hint: ...") unless ok."""
    if not ok:
        raise ValueError(f"{who}: got {got}; expected {want}" + (f". Hint: {hint}" if hint else ""))


def expect_floats(who, *arrays):
    """Refuse arrays of integers and booleans: a result in their dtype would be cut off at the point."""
    for a in arrays:
        if a.dtype.kind not in "fV":                         # V: bfloat16
            expect(False, who, f"an array of {a.dtype}", "floats", "astype('float32')")
