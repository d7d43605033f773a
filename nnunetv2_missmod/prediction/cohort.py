"""The cases of a cohort: predicted in this process, exported and scored beside it; a bad case does not end the run."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.calibration.signs import Signs
from nnunetv2_missmod.files.reading import read_label
from nnunetv2_missmod.files.whole_files import LOCK, clear_hidden_folders, flush, hidden_folder
from nnunetv2_missmod.host.predictor import label_map, mean_probabilities
from nnunetv2_missmod.machine.one_ahead import OneAhead
from nnunetv2_missmod.machine.out_of_memory import is_out_of_memory
from nnunetv2_missmod.machine.progress import progress
from nnunetv2_missmod.machine.workers import worker_pool
from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.engine import Segmented
from nnunetv2_missmod.prediction.postprocessing import remove_small_regions
from nnunetv2_missmod.prediction.regions import region_mask, regions_of

T = TypeVar("T")
Ready = TypeVar("Ready")  # what a case is when it has been read
Read = Callable[[CaseFiles], Ready]
Segment = Callable[[Ready, Callable[[float], None]], Iterable[Segmented]]
Finish = Callable[[CaseFiles, Segmented], T]
WRITING = "writing"  # in the names of hidden folders of masks that are not whole yet
WAITING = 2  # masks to be exported that may wait for a process; each holds its logits

# What bad input and full memory raise. Anything else is a mistake of ours and ends the run.
ERRORS_OF_A_CASE = (ValueError, OSError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Finished(Generic[T]):
    """A case that is done with.

    Attributes:
        case: its files.
        of_subset: what came of each subset, by its position.
        error: why the case could not be finished, or None.
    """

    case: CaseFiles
    of_subset: dict[int, T]
    error: Exception | None


class Export(NamedTuple):
    """What turns logits into a mask on the grid of the images, in whichever process."""

    plans_manager: Any
    configuration_manager: Any
    dataset_json: dict[str, Any]
    min_voxels: Mapping[str, int]

    @property
    def file_ending(self) -> str:
        """Ending of the files of images and masks."""
        return str(self.dataset_json["file_ending"])

    def mask_of(self, segmented: Segmented) -> np.ndarray:
        """Give the label map (x, y, z), small regions removed if that is asked for."""
        model = self.plans_manager, self.configuration_manager, self.dataset_json
        mask = label_map(segmented.logits, *model, segmented.properties)
        return remove_small_regions(mask, regions_of(self.dataset_json), self.min_voxels)

    def signs_of(self, segmented: Segmented, mask: np.ndarray) -> dict[str, Signs]:
        """Collect what can be seen of each region of a mask (x, y, z); probabilities are those before removals."""
        regions, voxel_volume = regions_of(self.dataset_json), float(np.prod(segmented.properties["spacing"]))
        sure = mean_probabilities(segmented.logits, self.plans_manager, self.dataset_json, regions)
        sizes = {name: np.count_nonzero(region_mask(mask, labels)) for name, labels in regions.items()}
        return {name: Signs(sure[name], size * voxel_volume) for name, size in sizes.items()}

    def write(self, mask: np.ndarray, file: Path, properties: dict[str, Any]) -> None:
        """Write a mask (x, y, z) as nnU-Net does, read it back, and give it its name: a folder holds whole masks alone.

        Raises:
            OSError: what was written is not the mask, as when the disk is full.
            ValueError: nnU-Net's writer cannot write it.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        with hidden_folder(file.parent, WRITING) as unfinished:
            self._write_seg(mask, unfinished / file.name, properties)
            for written in unfinished.iterdir():  # some writers put a file with the spacing beside it
                if written.name != LOCK:
                    flush(written)
                    os.replace(written, file.with_name(written.name))

    def _write_seg(self, mask: np.ndarray, file: Path, properties: dict[str, Any]) -> None:
        writer = self.plans_manager.image_reader_writer_class()
        try:
            writer.write_seg(mask, str(file), properties)
        except AssertionError as error:
            raise ValueError(f"expected a mask that {type(writer).__name__} can write, but {error}") from error
        try:
            written = read_label(writer, str(file))[0][0]
        except ValueError as error:
            raise OSError(f"the mask {file.name} was not written whole ({error}): is the disk full?") from error
        if not np.array_equal(written, mask):
            raise OSError(f"the mask {file.name} was written with other values than it has: is the disk full?")


def clear_unfinished(masks: Path, subsets: Sequence[str]) -> None:
    """Remove what dead runs left of masks that they were writing.

    Args:
        masks: folder of masks, and of folders of subsets.
        subsets: their names.
    """
    for folder in (masks, *(masks / subset for subset in subsets)):
        clear_hidden_folders(folder, WRITING)


def export_of(predictor: nnUNetPredictor, min_voxels: Mapping[str, int]) -> Export:
    """Take from a predictor what the export needs."""
    return Export(predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json, min_voxels)


@dataclass
class CaseInProgress(Generic[T]):
    """A case whose masks are being finished, in this or other processes.

    Attributes:
        case: its files.
        futures: what comes of each subset, by its position.
        error: why the case could not be segmented, or None.
    """

    case: CaseFiles
    futures: dict[int, Future[T]] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left to do."""
        return all(future.done() for future in self.futures.values())

    def hand_over(
        self,
        segment: Callable[[], Iterable[Segmented]],
        pool: Executor,
        finish: Finish[T],
        wait_for_room: Callable[[], None],
    ) -> None:
        """Let a pool finish what a model makes of it, mask by mask; keep the error if it cannot be segmented.

        Raises:
            RuntimeError: a process died.
        """
        try:
            for segmented in segment():
                wait_for_room()
                self.futures[segmented.position] = pool.submit(finish, self.case, segmented)
        except BrokenExecutor as died:
            raise _worker_died() from died
        except ERRORS_OF_A_CASE as raised:
            self.error = with_advice(raised)

    def finished(self) -> Finished[T]:
        """Wait for what is left of it.

        Raises:
            RuntimeError: a process died.
        """
        of_subset: dict[int, T] = {}
        error = self.error
        for position, future in self.futures.items():
            try:
                of_subset[position] = future.result()
            except BrokenExecutor as died:
                raise _worker_died() from died
            except ERRORS_OF_A_CASE as raised:
                error = error or with_advice(raised)
        return Finished(self.case, of_subset, error)


def predict_cohort(
    title: str,
    cases: Sequence[CaseFiles],
    read: Read[Ready],
    segment: Segment[Ready],
    finish: Finish[T],
    num_subsets: int,
    num_processes: int,
) -> Iterator[Finished[T]]:
    """Segment every case here and finish its masks in other processes, under a progress bar.

    While a case is segmented the next one is read, in a thread; what is wrong with it is said when it is its turn.

    Args:
        title: of the bar.
        cases: they come out in their order.
        read: does for a case what needs no network, and prints nothing.
        segment: gives what a model makes of it, subset by subset, and says how far it is as ``predict_subsets``.
        finish: makes of it what is wanted; it is sent to other processes.
        num_subsets: that a case has at most.
        num_processes: how many; 0 finishes here.

    Raises:
        RuntimeError: a process died.
    """
    in_progress: deque[CaseInProgress[T]] = deque()  # in their order
    room, reading = partial(_wait_for_room, in_progress, num_processes), OneAhead(read, cases)
    with progress(title, len(cases) * num_subsets) as bar, _pool(num_processes) as pool, reading as ready:
        for number, case in enumerate(cases, 1):
            current = CaseInProgress[T](case)
            in_progress.append(current)
            current.hand_over(lambda: segment(ready.take(), bar.advance), pool, finish, room)
            bar.reach(number * num_subsets)  # also past what a bad case left undone
            while in_progress and in_progress[0].is_done:
                yield _printed(in_progress.popleft().finished(), num_subsets)
        while in_progress:
            yield _printed(in_progress.popleft().finished(), num_subsets)


def _printed(done: Finished[T], num_subsets: int) -> Finished[T]:
    """Print how a case ended, and give it on."""
    outcome = "done"
    if done.error is not None:
        outcome = f"failed. {done.error}"
    elif len(done.of_subset) < num_subsets:
        outcome = f"done, for the {len(done.of_subset)} of {num_subsets} subsets whose modalities it has"
    red, plain = ("\x1b[31m", "\x1b[0m") if done.error and sys.stdout.isatty() else ("", "")
    name = done.case.name if done.case.name.strip() else f"the case of {', '.join(done.case.images)}"
    print(f"{red}{name}: {outcome}{plain}", flush=True)
    return done


def with_advice(error: Exception) -> Exception:
    """Say of an error what makes a prediction smaller, if it is that memory ended."""
    if not is_out_of_memory(error):
        return error
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    with_way_out = RuntimeError(
        f"memory ended ({reason}). Predict with fewer subsets at a time (--memory 0.5), fewer at all (--subsets), "
        "fewer processes (-nps 0), larger steps (-step_size 1) or -device cpu; a plan for less memory is made by "
        "missmod plan -gpu_memory_target, and trained on anew."
    )
    with_way_out.__cause__ = error
    return with_way_out


def _wait_for_room(in_progress: Iterable[CaseInProgress[T]], num_processes: int) -> None:
    futures = [future for case in in_progress for future in case.futures.values()]
    while len(running := [future for future in futures if not future.done()]) >= num_processes + WAITING:
        wait(running, return_when=FIRST_COMPLETED)


def _worker_died() -> RuntimeError:
    return RuntimeError(
        "A process that exports and scores masks died, most likely for want of memory. The finished cases are kept: "
        "run the same command again with fewer processes (-nps)."
    )


def _pool(num_processes: int) -> AbstractContextManager[Executor]:
    return _ThisProcess() if num_processes == 0 else worker_pool(num_processes, partial(torch.set_num_threads, 1))


class _ThisProcess(Executor):
    """Does at once what it is given, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except ERRORS_OF_A_CASE as error:
            future.set_exception(error)
        return future
