"""Commands without their start: a process that has imported nnU-Net once forks for each of them.

More than half of what a command of the end-to-end tests takes are imports. The first run of `missmod`, of nnU-Net's
training and of its prediction is the installed program; every other is the program's entry point, called in a fork of
this process with the arguments, the folder, the environment and the streams of its caller. `missmod run`, which becomes
the program that it is given, is always the installed one. The processes that a forked command spawns are forked too, by
Python's fork server, which has imported the same: what they get is pickled all the same.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from importlib.metadata import entry_points
from multiprocessing import context, forkserver, reduction
from pathlib import Path

FEW = 10e3  # intensities that are drawn for a fingerprint
PROGRAMS = ("missmod", "nnUNetv2_train", "nnUNetv2_predict")  # whose first run is the installed one
CLIENT = """#!{python} -IS
import json, os, socket, struct, sys
name = os.path.basename(sys.argv[0])
if sys.argv[1:2] == ["run"]:
    os.execv({program!r}, [{program!r}, *sys.argv[1:]])
try:
    if name in {programs!r}:
        os.close(os.open({folder!r} + "/ran_" + name, os.O_CREAT | os.O_EXCL))
        os.execv({program!r}, [{program!r}, *sys.argv[1:]])
except FileExistsError:
    pass
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([name, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [struct.pack("!I", len(call))], [0, 1, 2])
server.sendall(call)
code = server.recv(4)
sys.exit(struct.unpack("!i", code)[0] if len(code) == 4 else 70)
"""


def start(folder: Path) -> subprocess.Popen:
    """Start the process, and write a stand-in for each command into ``folder``, which is to stand first in PATH."""
    folder.mkdir(parents=True)
    address = str(folder / "socket")
    programs = Path(sys.executable).parent
    for name in commands():
        text = CLIENT.format(
            python=sys.executable,
            folder=str(folder),
            programs=PROGRAMS,
            program=str(programs / name),
            address=address,
        )
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"listening\n"
    return server


def commands():
    """The entry points of the commands that are called with nnU-Net imported, by name."""
    found = entry_points(group="console_scripts")
    return {point.name: point for point in found if point.name.startswith("nnUNetv2_") or point.name == "missmod"}


def serve(address: str) -> None:
    """Listen, import, and fork for every call."""
    sys.path.pop(0)  # this script's folder, which no console script has there
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    print("listening", flush=True)
    forkserver.set_forkserver_preload(["nnunetv2.run.run_training", "nnunetv2_missmod.host.trainer_lookup"])
    forkserver.ensure_running()
    import_trainers()
    entry_of = {name: point.load() for name, point in commands().items()}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            answer(connection, entry_of)
        connection.close()


def import_trainers() -> None:
    """Import what nnU-Net imports when it looks for a trainer; end with the tests, however they end."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    from nnunetv2_missmod.datasets.fingerprint import cohort_fingerprint
    from nnunetv2_missmod.host.doors import with_doors
    from nnunetv2_missmod.host.trainer_lookup import find_trainer_class
    from nnunetv2_missmod.machine.forked_workers import end_with_parent

    end_with_parent()
    # nnU-Net draws 10e7 intensities of each channel, which takes most of the time in which it plans a phantom.
    DatasetFingerprintExtractor.num_foreground_voxels_for_intensitystats = property(lambda _: FEW, lambda *_: None)
    cohort_fingerprint.__defaults__ = (*cohort_fingerprint.__defaults__[:-1], FEW)
    os.environ.update(with_doors(os.environ))
    find_trainer_class("DCSegTrainer")


def answer(connection, entry_of) -> None:
    """Run one call in a fork and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, streams, _, _ = socket.recv_fds(connection, 4, 3)
    (length,) = struct.unpack("!I", header)
    content = b""
    while len(content) < length:
        content += connection.recv(length - len(content))
    name, arguments, folder, environment = json.loads(content)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(folder)
    set_environment(environment)
    spawn_from_fork_server()
    sys.argv = [name, *arguments]
    code = run(entry_of[name])
    connection.sendall(struct.pack("!i", code))
    os._exit(code)


def set_environment(environment: dict[str, str]) -> None:
    """Replace the environment of this process."""
    os.environ.clear()
    os.environ.update(environment)


class PreloadedProcess(context.ForkServerProcess):
    """A process with the environment and the output streams of the one that starts it, not of the fork server."""

    def __getstate__(self):
        return dict(os.environ), [reduction.DupFd(target) for target in (1, 2)], self.__dict__

    def __setstate__(self, state):
        environment, streams, self.__dict__ = state
        set_environment(environment)
        for target, stream in enumerate(streams, 1):
            os.dup2(stream.detach(), target)


class PreloadedContext(context.SpawnContext):
    """The context of spawned processes with such processes in their place."""

    Process = PreloadedProcess


def spawn_from_fork_server() -> None:
    """Have the fork server start what this process would spawn."""
    forkserver._forkserver.ensure_running = lambda: None  # it is this process's parent's
    context._concrete_contexts["spawn"] = PreloadedContext()


def run(entry) -> int:
    """Call an entry point as its console script does; give the exit code."""
    import atexit
    import traceback

    try:
        result = entry()
    except SystemExit as error:
        result = error.code
    except BaseException:
        traceback.print_exc()
        result = 1
    if isinstance(result, str):
        print(result, file=sys.stderr)
        result = 1
    atexit._run_exitfuncs()  # multiprocessing waits for its processes there
    sys.stdout.flush()
    sys.stderr.flush()
    return int(result or 0)


if __name__ == "__main__":
    serve(sys.argv[1])
