"""How often a property is tried: the same few examples in CI, MISSMOD_FUZZ times as many, drawn anew, on demand."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("MISSMOD_FUZZ", "1"))


def bounded(examples):
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
