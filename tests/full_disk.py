"""A disk that is full, for the tests of what is left then."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk(room=0):
    """Let no file of this process grow beyond some bytes; as on a full disk, writing on is an error, not a signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
