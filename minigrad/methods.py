"""a + b, a @ b, ...: Tensor's operators, in one table. Importing this file attaches them."""
from minigrad.ops.elementwise import add, mul
from minigrad.tensor import Tensor

for names, op in {
    ("__add__", "__radd__"): add,
    ("__mul__", "__rmul__"): mul,
}.items():
    for name in names:
        setattr(Tensor, name, lambda *args, op=op, **kw: op(*args, **kw))
