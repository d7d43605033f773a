"""Killing a command at a random moment: it runs in a forked process, in a session of its own."""

import os
import random
import signal
import sys
import time

from processes import left_after
from small_models import folders_of

from nnunetv2_missmod.cli.main import main

IN_CI = 2  # in CI
KILLS = int(os.environ.get("MISSMOD_KILLS", IN_CI))  # at each place; 20 and more by hand


def begin(arguments, output):
    """Start `missmod` with these arguments in a process forked from this one, which has all modules loaded."""
    process = os.fork()
    if process == 0:
        os.setsid()
        with open(output, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return process


def run(arguments, output):
    """Run to the end; give the exit code and the seconds that it took."""
    started = time.monotonic()
    _, status = os.waitpid(begin(arguments, output), 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def kill_within(seconds, arguments, output, number=signal.SIGKILL, seed=None):
    """End a run at a random moment; give the exit code (negative: the signal) once nothing of it is left running."""
    process = begin(arguments, output)
    time.sleep(random.Random(seed).uniform(0, seconds))
    os.kill(process, number)
    _, status = os.waitpid(process, 0)
    assert left_after(process, 20) == []
    return os.waitstatus_to_exitcode(status)


def prediction(verb, choice, processes, out):
    """The arguments of `missmod predict` or `evaluate` for all subsets of a model of ``small_models``."""
    images, labels = folders_of(choice)
    model = ["-d", choice.dataset, "-c", choice.configuration, "-tr", choice.trainer, "-p", choice.plans, "-f", "0"]
    how = ["-device", "cpu", "--disable_tta", "-step_size", "1", "-nps", processes]
    more = ["--subsets", "all", "--continue_prediction"] if verb == "predict" else ["-gt", labels]
    arguments = [verb, "-i", images, "-o", out, *model, *how, *more]
    return [str(argument) for argument in arguments]
