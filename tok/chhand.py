"""The meter of Hindi verse: what counts it, names it and says where it is broken, under one name.

    from tok.chhand import scan, matras, meter
    matras("मंगल भवन अमंगल हारी")                                                        {16}
    meter("मंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी॥").form                              "chaupai"

Aksharas, weights and rule sets are in scansion.py; forms, and the machine that reads and closes a line, in meter.py.
"""
from tok.meter import FORMS, Line, meter, rhyme
from tok.scansion import RULES, Akshara, matras, pattern, readings, rhymes, scan, tuk

__all__ = ["FORMS", "RULES", "Akshara", "Line", "matras", "meter", "pattern", "readings", "rhyme", "rhymes", "scan",
           "tuk"]
