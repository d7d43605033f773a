"""Every trainer and the prediction on one GPU, in minutes: ``bash benchmarks/gpu_check.sh``.

Each trainer takes 50 steps at 128^3, batch 2, mixed precision and torch.compile; a case of 240 x 240 x 155 voxels is
predicted from all 15 subsets; the CPU's masks of a phantom are compared with the GPU's. One row for each, printed when
it is there and written to results.csv and results.json. What fails is a row with its error, and the exit code is then
1. No dataset is needed. ``-device cpu --toy`` tries the script itself, in this process.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.needed import require

BEGUN = "GPU_CHECK_BEGUN"  # in the environment: when the first of the commands that install and measure began
PREDICTED = ("DCSegTrainer", "ModalityDropoutTrainer")
COLUMNS = {  # of the table: heading -> how the figure of a row is written
    "row": lambda row: row["row"],
    "s": lambda row: f"{row['took']:.0f}",
    "it/s": lambda row: f"{row['per_second']:.2f}" if "per_second" in row else "",
    "GB": lambda row: f"{row['memory'] / 1e9:.2f}" if "memory" in row else "",
    "plan's GB": lambda row: f"{row['estimated'] / 1e9:.2f}" if row.get("estimated") else "",
    "loss": lambda row: f"{row['losses'][0]:.3g} > {row['losses'][-1]:.3g}" if "losses" in row else "",
    "15 subsets, s": lambda row: f"{row['prediction']:.1f}" if "prediction" in row else "",
    "voxels that differ": lambda row: f"{row['differing']} of {row['voxels']}" if "differing" in row else "",
    "outcome": lambda row: row["error"] or "good",
}
AHEAD_FROM = 64e9  # bytes of a GPU from which on the next rows are built and compiled while one is measured


class Running(NamedTuple):
    """A row that is measured in a process of its own."""

    row: str
    process: subprocess.Popen[bytes]
    log: Path
    begun: float


def main() -> int:
    """Measure what is asked for; 1 if a row failed."""
    begun = float(os.environ.setdefault(BEGUN, str(time.time())))
    arguments = parse()
    require(arguments.wheels)
    deadline = begun + 60 * arguments.minutes
    rows = rows_of(arguments)
    arguments.o.mkdir(parents=True, exist_ok=True)
    compiled = compiles(arguments)
    machine = describe(arguments.device)
    print(f"{machine}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    flags = ["-device", arguments.device, "--scale", arguments.scale, *([] if compiled else ["--no-compile"])]
    results: list[dict[str, Any]] = []
    isolated = arguments.device != "cpu"
    measured = in_processes(rows, flags, arguments, deadline) if isolated else here(rows, arguments, deadline)
    for result in measured:
        results.append(result)
        print(f"| {' | '.join(write(result) for write in COLUMNS.values())} |", flush=True)
        keep(results, machine, arguments.o)
    return conclude(rows, results, arguments)


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, default=Path("gpu_check"), help="folder for results (default: %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--trainers", nargs="+", help="default: stock nnU-Net and every door")
    parser.add_argument("--predict", nargs="*", default=PREDICTED, help="trainers whose 15 subsets are predicted")
    parser.add_argument("--minutes", type=float, default=8, help="no row is begun that would end later (default: 8)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from (default: the package index)")
    parser.add_argument("--ahead", type=int, help="rows built and compiled beside the one that is measured")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--half", dest="scale", action="store_const", const="half", help="64^3, for a small GPU")
    size.add_argument("--toy", dest="scale", action="store_const", const="toy", help="16^3, 2 steps: to try the script")
    parser.set_defaults(scale="full")
    return parser.parse_args()


def rows_of(arguments: argparse.Namespace) -> list[str]:
    """List the rows, what they measure and of whom; what there is one of first."""
    from benchmarks.models import NNUNET_TRAINER  # noqa: PLC0415
    from nnunetv2_missmod.host.doors import door_names  # noqa: PLC0415

    trainers = arguments.trainers or [NNUNET_TRAINER, *door_names()]
    return [
        "masks embedded",
        *(f"predict {name}" for name in arguments.predict),
        *(f"train {name}" for name in trainers),
    ]


def compiles(arguments: argparse.Namespace) -> bool:
    """Whether trainings are compiled; says where they cannot be."""
    if arguments.device == "cpu" or arguments.no_compile:
        return False
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")):
        print("No C compiler, which torch.compile needs: nothing is compiled.", flush=True)
        return False
    return True


def describe(device: str) -> str:
    """Name what is measured on.

    Raises:
        RuntimeError: there is no GPU.
    """
    import torch  # noqa: PLC0415

    versions = f"PyTorch {torch.__version__}, {os.cpu_count()} cores"
    if device == "cpu":
        return f"CPU, {versions}"
    if not torch.cuda.is_available():
        raise RuntimeError("Expected a GPU that PyTorch sees, found none. Try the script with -device cpu --toy.")
    memory = torch.cuda.mem_get_info()[1]
    return f"{torch.cuda.get_device_name()}, {memory / 1e9:.0f} GB, CUDA {torch.version.cuda}, {versions}"


def here(rows: list[str], arguments: argparse.Namespace, deadline: float) -> Iterator[dict[str, Any]]:
    """Measure rows in this process, one after the other."""
    from benchmarks import gpu_rows  # noqa: PLC0415

    durations: list[float] = []
    for row in rows:
        if not is_time(durations, deadline):
            return
        begun, (kind, name) = time.time(), row.split()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            try:
                measure, scale = gpu_rows.ROWS[kind], gpu_rows.SCALES[arguments.scale]
                found: dict[str, Any] = {**measure(name, "cpu", scale, False, nullcontext()), "error": None}
            except Exception as error:  # whatever a trainer raises: the other rows go on
                found = {"error": in_a_line(f"{type(error).__name__}: {error}")}
        durations.append(time.time() - begun)
        yield {"row": row, "took": durations[-1], **found}


def in_processes(
    rows: list[str], flags: list[str], arguments: argparse.Namespace, deadline: float
) -> Iterator[dict[str, Any]]:
    """Measure each row in a process; those that are ahead wait for their turn at the GPU, which one has at a time."""
    at_a_time, waiting, running = 1 + ahead(arguments.ahead), list(rows), list[Running]()
    durations: list[float] = []
    command = [sys.executable, "-m", "benchmarks.gpu_rows"]
    flags = [*flags, "--lock", str((arguments.o / "turn.lock").resolve())]
    try:
        while running or (waiting and is_time(durations, deadline)):
            while waiting and len(running) < at_a_time and is_time(durations, deadline):
                running.append(start(waiting.pop(0), command, flags, arguments.o))
            for job in [job for job in running if job.process.poll() is not None or time.time() > deadline]:
                running.remove(job)
                result = result_of(job)
                durations.append(result["took"])
                yield result
            time.sleep(0.1)
    finally:
        for job in running:
            end(job.process)


def ahead(asked: int | None) -> int:
    """Say how many rows may be built while one is measured: each has its networks on the GPU meanwhile."""
    if asked is not None:
        return asked
    import torch  # noqa: PLC0415

    return 3 if torch.cuda.mem_get_info()[1] > AHEAD_FROM else 0


def is_time(durations: list[float], deadline: float) -> bool:
    """Whether a row that takes as long as those before it did, on average, ends before the deadline."""
    return time.time() + (sum(durations) / len(durations) if durations else 0) < deadline


def start(row: str, command: list[str], flags: list[str], out: Path) -> Running:
    """Start a row in a process that can be ended with all that it starts."""
    log = out / f"{row.replace(' ', '_')}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, *row.split(), *flags], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Running(row, process, log, time.time())


def result_of(job: Running) -> dict[str, Any]:
    """Read what a row gave, or its error; one that still runs has run out of time and is ended."""
    timed_out = job.process.poll() is None
    if timed_out:
        end(job.process)
    said = job.log.read_text(errors="replace").strip().splitlines() or [""]
    result: dict[str, Any] = {"row": job.row, "took": time.time() - job.begun, "error": None}
    if timed_out:
        return {**result, "error": "ended, since the time was over (--minutes)"}
    if job.process.returncode != 0:
        return {**result, "error": in_a_line(said[-1]) or f"exit code {job.process.returncode}"}
    return {**result, **json.loads(said[-1])}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def in_a_line(error: str) -> str:
    """Write an error so that it fits into a cell."""
    return " ".join(error.split()).replace("|", "/")[:300]


def keep(results: list[dict[str, Any]], machine: str, out: Path) -> None:
    """Write what there is so far: the table, and all figures."""
    with open(out / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([write(result) for write in COLUMNS.values()] for result in results)
    (out / "results.json").write_text(json.dumps({"machine": machine, "rows": results}, indent=2))


def conclude(rows: list[str], results: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    """Say what failed and what was left out; give the exit code."""
    failed = [result["row"] for result in results if result["error"]]
    done = {result["row"] for result in results}
    print(f"\n{len(results) - len(failed)} rows good, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}.")
    if left_out := [row for row in rows if row not in done]:
        print(f"Left out, for want of time (--minutes {arguments.minutes:g}): {', '.join(left_out)}.")
    print(f"All figures are in {arguments.o / 'results.json'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(f"gpu_check: {error}")
