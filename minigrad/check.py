"""One way to refuse bad input: say who refuses, what was got, what was expected, and what to do."""


def expect(ok, who, got, want, hint=""):
    """Raise ValueError("who: got ...; expected .... Hint: ...") unless ok."""
    if not ok:
        raise ValueError(f"{who}: got {got}; expected {want}" + (f". Hint: {hint}" if hint else ""))
