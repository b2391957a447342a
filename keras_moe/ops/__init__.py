"""The backend boundary: dispatch and combine, by named implementation.

    tokens (G,T,D), plan -> slots (G,E,S,D) -> experts -> tokens (G,T,D)

`select` names the implementation from static facts, `make_dispatcher` prepares
a plan for it, once, and what that returns dispatches and combines, so that
both steps and their gradients share what was prepared. A named implementation
runs or raises; nothing falls back silently.
"""

from keras_moe.ops import selection  # noqa: F401
from keras_moe.ops.implementations import AUTOMATIC as AUTOMATIC
from keras_moe.ops.implementations import EVERYWHERE as EVERYWHERE
from keras_moe.ops.implementations import IMPLEMENTATIONS as IMPLEMENTATIONS
from keras_moe.ops.implementations import STREAMING_BYTES as STREAMING_BYTES
from keras_moe.ops.selection import ENVIRONMENT as ENVIRONMENT
from keras_moe.ops.selection import Facts as Facts
from keras_moe.ops.selection import Implementation as Implementation
from keras_moe.ops.selection import choose_dispatcher as choose_dispatcher
from keras_moe.ops.selection import facts as facts
from keras_moe.ops.selection import make_dispatcher as make_dispatcher
from keras_moe.ops.selection import names as names
from keras_moe.ops.selection import select as select

__all__ = [
    "AUTOMATIC",
    "ENVIRONMENT",
    "EVERYWHERE",
    "Facts",
    "IMPLEMENTATIONS",
    "Implementation",
    "STREAMING_BYTES",
    "choose_dispatcher",
    "facts",
    "make_dispatcher",
    "names",
    "select",
]
