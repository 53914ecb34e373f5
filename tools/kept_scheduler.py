"""Encoders leave the calling thread as they found it.

libsvtav1 gives its caller the highest real-time priority where it may (as root) and never takes it
back: all that the thread does later then runs before everything else on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_scheduler() -> Iterator[None]:
    """Restore the thread's scheduling policy and priority, on systems that can be asked for it."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)
