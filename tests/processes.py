"""Who of a group of processes is left, for the tests that kill some."""

import time
from pathlib import Path


def alive_in(group):
    """The numbers of a group's processes that have not ended; one that nobody has waited for yet has."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(file.parent.name))
    return found


def left_after(group, seconds):
    """The processes of a group that are still there after some seconds."""
    end = time.monotonic() + seconds
    while alive_in(group) and time.monotonic() < end:
        time.sleep(0.02)
    return alive_in(group)
