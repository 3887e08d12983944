"""How a process of our own uses the processors, where torch and Python know no better."""

from __future__ import annotations

import gc
import os

# Of GNU OpenMP: how often a thread of torch's looks whether it may go on before it sleeps, about a
# third of a millisecond. By default ten: on a busy machine the threads that wait then take
# the processors from those they wait for.
_LOOKS = "10000"
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# Python looks for dead objects that hold each other; a full look is at all the million objects that
# torch and transformers bring. Passes leave none: so it looks seldom, and after each model.
_GENERATIONS = 100_000, 20, 10


def use_sparingly() -> None:
    """Wait asleep, and look for dead objects seldom.

    For processes of our own, before torch is imported. What the user has set in the environment
    stays.
    """
    gc.set_threshold(*_GENERATIONS)
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = _LOOKS
