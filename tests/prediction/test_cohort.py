"""The cases of a cohort: in their order, whatever fails, in however many processes."""

import os
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from small_finishing import die, name_and_value, segmented, value_and_process
from small_models import SPACING, small_images, write_case, write_model

from nnunetv2_missmod.host.preprocessor import read_case
from nnunetv2_missmod.prediction import cohort
from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.cohort import WAITING, export_of, predict_cohort
from nnunetv2_missmod.prediction.engine import Images, predict_subsets
from nnunetv2_missmod.prediction.model import PredictionSettings, open_predictor

pytestmark = pytest.mark.slow

CASES = [CaseFiles(name, []) for name in ("c", "a", "bad", "b")]


def two_subsets(case, on_patch):
    """Two subsets of every case, the second one first."""
    for position in (1, 0):
        yield segmented(position, len(case.name))
        on_patch(1.0)


def as_it_is(case):
    return case


def predicted(segment=two_subsets, finish=name_and_value, cases=CASES, num_processes=0, read=as_it_is):
    return list(predict_cohort("Test", cases, read, segment, finish, 2, num_processes))


@pytest.fixture
def threads(monkeypatch):
    """Masks are finished in threads of this process, not in spawned processes."""
    monkeypatch.setattr(cohort, "_pool", ThreadPoolExecutor)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_every_case_comes_out_in_order_with_its_subsets():
    done = predicted(cases=[CASES[0], CASES[1]])
    assert [finished.case for finished in done] == [CASES[0], CASES[1]]
    assert [finished.of_subset for finished in done] == [{1: "c 1 8", 0: "c 0 8"}, {1: "a 1 8", 0: "a 0 8"}]
    assert [finished.error for finished in done] == [None, None]


def test_no_case_is_no_error():
    assert predicted(cases=[]) == []


def test_two_processes_give_the_same_in_the_same_order(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    here, there = predicted(finish=value_and_process), predicted(finish=value_and_process, num_processes=2)
    assert [finished.error is None for finished in there] == [True, True, False, True]
    for one, other in zip(here, there, strict=True):
        assert (one.case, str(one.error)) == (other.case, str(other.error))
        values = [{position: of[0] for position, of in each.of_subset.items()} for each in (one, other)]
        assert values[0] == values[1]
    workers = {of[1:] for finished in there for of in finished.of_subset.values()}
    assert all(process != os.getpid() and threads == 1 for process, threads in workers)


def test_the_first_case_comes_out_before_the_second_is_segmented():
    begun = []

    def segment(case, on_patch):
        begun.append(case.name)
        yield from two_subsets(case, on_patch)

    finished = predict_cohort("Test", CASES, as_it_is, segment, name_and_value, 2, 0)
    assert begun == []
    next(finished)
    assert begun == ["c"]


def test_a_case_that_takes_long_lets_none_overtake_it(threads):
    def slow_first(case, found):
        time.sleep(0.2 if case.name == "c" else 0)
        return case.name

    done = predicted(finish=slow_first, num_processes=3)
    assert [set(finished.of_subset.values()) for finished in done] == [{"c"}, {"a"}, {"bad"}, {"b"}]


# --- what fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("NaN"), OSError("no space left"), RuntimeError("no kernel")])
def test_a_case_that_cannot_be_segmented_keeps_the_others_going(error, capsys):
    def segment(case, on_patch):
        yield segmented(0, 1)
        if case.name == "bad":
            raise error
        yield segmented(1, 1)

    def finish(case, found):
        return case.name

    done = predicted(segment, finish)
    assert [finished.error for finished in done] == [None, None, error, None]
    assert [sorted(finished.of_subset) for finished in done] == [[0, 1], [0, 1], [0], [0, 1]]
    said = capsys.readouterr().out
    assert f"bad: failed. {error}" in said
    assert all(f"{case}: done" in said for case in "cab")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 100 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
@pytest.mark.parametrize("where", ["network", "export"])
def test_memory_that_ends_is_told_with_what_needs_less(error, where, capsys):
    def segment(case, on_patch):
        if where == "network" and case.name == "bad":
            raise error
        yield segmented(0, 1)

    def finish(case, found):
        if case.name == "bad":
            raise error
        return case.name

    done = predicted(segment, finish)
    assert [finished.error is None for finished in done] == [True, True, False, True]
    said = capsys.readouterr().out
    assert "bad: failed. memory ended (" in said
    assert "(--memory 0.5), fewer at all (--subsets), fewer processes (-nps 0), larger steps (-step_size 1)" in said


def test_a_mask_that_cannot_be_finished_keeps_the_others_going(capsys):
    done = predicted()
    assert [str(finished.error) for finished in done] == ["None", "None", "bad cannot be finished", "None"]
    assert done[2].of_subset == {}
    assert "bad: failed. bad cannot be finished" in capsys.readouterr().out


def test_a_case_that_lacks_subsets_is_said_to(capsys):
    done = predicted(lambda case, on_patch: [segmented(1)], cases=[CASES[0]])
    assert list(done[0].of_subset) == [1]
    assert "c: done, for the 1 of 2 subsets whose modalities it has" in capsys.readouterr().out


def test_names_and_errors_are_printed_as_they_are(capsys):
    def segment(case, on_patch):
        raise ValueError("[red]got[/red] [/]")

    predicted(segment, cases=[CaseFiles("[bold]x", [])])
    assert "[bold]x: failed. [red]got[/red] [/]" in capsys.readouterr().out


def test_a_case_without_a_name_is_named_by_its_files(capsys):
    predicted(cases=[CaseFiles(" ", ["images/ _0001.nii.gz"])])
    assert capsys.readouterr().out.startswith("the case of images/ _0001.nii.gz: ")


def test_what_is_said_of_a_case_is_one_line_so_that_paths_stay_whole(capsys):
    long = "/a_folder_of_many" * 20

    def segment(case, on_patch):
        raise ValueError(f"expected its label at {long}, found none")

    predicted(segment, cases=CASES[:1])
    assert f"c: failed. expected its label at {long}, found none\n" in capsys.readouterr().out


@pytest.mark.parametrize("in_threads", [False, True])
def test_a_mistake_of_ours_ends_the_run(in_threads, request):
    if in_threads:
        request.getfixturevalue("threads")

    def wrong(case, found):
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        predicted(finish=wrong, num_processes=int(in_threads))

    def segment_wrong(case, on_patch):
        raise TypeError("another")

    with pytest.raises(TypeError, match="another"):
        predicted(segment_wrong, num_processes=int(in_threads))


DIED = r"died, .* memory\. .*fewer processes \(-nps\)"


def test_a_process_that_dies_says_how_to_go_on():
    with pytest.raises(RuntimeError, match=DIED):
        predicted(finish=die, num_processes=1)


def test_a_process_that_dies_after_the_last_mask_was_sent_says_so_too(threads):
    def finish(case, found):
        raise BrokenExecutor

    with pytest.raises(RuntimeError, match=DIED):
        predicted(finish=finish, cases=CASES[:1], num_processes=1)


def test_a_process_that_died_before_a_mask_is_sent_says_so_too(monkeypatch):
    class Broken(ThreadPoolExecutor):
        def submit(self, *_):
            raise BrokenExecutor

    monkeypatch.setattr(cohort, "_pool", Broken)
    with pytest.raises(RuntimeError, match=DIED):
        predicted(num_processes=1)


# --- one case ahead ---------------------------------------------------------------------------------------------------


def test_the_next_case_is_read_while_one_is_segmented_and_no_further_one():
    read, segmented_after = [], {}
    second_is_read = threading.Event()

    def reading(case):
        read.append(case.name)
        if len(read) == 2:
            second_is_read.set()
        return case

    def segment(case, on_patch):
        assert second_is_read.wait(5)
        time.sleep(0.05)  # in which a further one would be read
        segmented_after[case.name] = list(read)
        yield from two_subsets(case, on_patch)

    predicted(segment, read=reading)
    assert segmented_after == {
        "c": ["c", "a"],
        "a": ["c", "a", "bad"],
        "bad": [*"ca", "bad", "b"],
        "b": [*"ca", "bad", "b"],
    }


def test_a_case_that_cannot_be_read_does_not_disturb_the_one_before_it(capsys):
    def reading(case):
        if case.name == "bad":
            raise ValueError("a damaged file")
        return case

    done = predicted(read=reading)
    assert [str(finished.error) for finished in done] == ["None", "None", "a damaged file", "None"]
    assert [sorted(finished.of_subset) for finished in done] == [[0, 1], [0, 1], [], [0, 1]]
    assert "bad: failed. a damaged file" in capsys.readouterr().out


def test_a_mistake_of_ours_in_reading_ends_the_run_when_it_is_the_cases_turn(capsys):
    def reading(case):
        if case.name == "bad":
            raise TypeError("a mistake")
        return case

    with pytest.raises(TypeError, match="a mistake"):
        predicted(read=reading)
    assert "a: done" in capsys.readouterr().out


def test_ctrl_c_ends_the_run_once_what_is_being_read_is(capsys):
    begun, ended = [], []

    def reading(case):
        begun.append(case.name)
        time.sleep(0.1)
        ended.append(case.name)
        return case

    def segment(case, on_patch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predicted(segment, read=reading)
    assert begun == ended
    assert len(begun) <= 2


class Large:
    """What was read of a case."""


def test_two_cases_that_were_read_are_in_memory_at_the_most():
    alive = []

    def reading(case):
        assert sum(former() is not None for former in alive) <= 1
        alive.append(weakref.ref(large := Large()))
        return large

    def segment(large, on_patch):
        yield segmented(0)
        time.sleep(0.02)

    done = predicted(segment, finish=lambda case, found: case.name, read=reading)
    assert [finished.error for finished in done] == [None] * 4


def test_a_case_for_which_memory_ended_beside_another_is_read_again_alone():
    tried = []

    def reading(case):
        tried.append(case.name)
        if case.name == "a" and tried.count("a") == 1:
            raise MemoryError
        return case

    done = predicted(read=reading, finish=lambda case, found: case.name)
    assert [finished.error for finished in done] == [None] * 4
    assert tried == ["c", "a", "a", "bad", "b"]


# --- how many wait ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [1, 3])
def test_so_many_masks_wait_and_no_more(threads, num_processes):
    unfinished, most, lock = 0, 0, threading.Lock()
    may_finish = threading.Event()

    def count(change):
        nonlocal unfinished, most
        with lock:
            unfinished += change
            most = max(most, unfinished)

    def segment(case, on_patch):
        for position in range(4):
            yield segmented(position)
            count(1)

    def finish(case, found):
        may_finish.wait(5)
        count(-1)

    threading.Timer(0.3, may_finish.set).start()
    assert len(predicted(segment, finish, num_processes=num_processes)) == len(CASES)
    assert num_processes + WAITING <= most <= num_processes + WAITING + 1
    assert unfinished == 0


# --- the export -------------------------------------------------------------------------------------------------------


def test_small_regions_are_removed_before_a_mask_is_written(tmp_path, monkeypatch):
    choice = write_model(tmp_path, monkeypatch, num_modalities=2)
    settings = PredictionSettings(device="cpu", step_size=1.0, mirroring=False)
    predictor = open_predictor(choice, settings)
    files = write_case(tmp_path / "case", "case", small_images(2))
    reader = predictor.plans_manager.image_reader_writer_class()
    images = Images(*read_case(files, reader, predictor.dataset_json))
    (found,) = predict_subsets(predictor, images, np.array([[True, True]]))
    mask = export_of(predictor, {}).mask_of(found)
    tumor = np.count_nonzero(mask == 2)
    assert 0 < tumor < mask.size
    np.testing.assert_array_equal(export_of(predictor, {"tumor": tumor}).mask_of(found), mask)
    export = export_of(predictor, {"tumor": tumor + 1})
    np.testing.assert_array_equal(export.mask_of(found), np.where(mask == 2, 0, mask))

    assert export.file_ending == ".nii.gz"
    export.write(export.mask_of(found), tmp_path / "new" / "folder" / "case.nii.gz", found.properties)
    written = sitk.ReadImage(str(tmp_path / "new" / "folder" / "case.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), np.where(mask == 2, 0, mask))
    assert written.GetSpacing() == pytest.approx(SPACING)
