"""A disk that is full: a line, an exit code that is not 0, nothing half under a final name; what was there stays."""

import pytest
from full_disk import full_disk
from killing import prediction
from small_folders import write_data, write_model
from small_models import two_folds

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.evaluation import scores
from nnunetv2_missmod.files.whole_files import check_whole, write_whole
from nnunetv2_missmod.prediction import cohort, mask_table
from nnunetv2_missmod.report import page

pytestmark = pytest.mark.slow


def on_a_full_disk(function, room):
    def limited(*arguments, **settings):
        with full_disk(room):
            return function(*arguments, **settings)

    return limited


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    with two_folds(tmp_path_factory.mktemp("nnunet"), {"a": [0, 1], "b": [1]}, []) as folds:
        yield folds


def names_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("room", [0, 100, 10_000])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, room):
    file = tmp_path / "file"
    file.write_text("before")
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        write_whole(file, lambda partial: partial.write_bytes(bytes(20_000)))
    assert file.read_text() == "before"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_nothing_is_begun_where_nothing_can_be_written(choice, tmp_path, capsys, verb):
    with full_disk(room=10):
        assert main(prediction(verb, choice, 0, tmp_path / "out")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"missmod: [Errno 27] File too large: '{tmp_path / 'out'}")
    assert [name for name in names_in(tmp_path / "out") if not name.startswith(".")] == []


@pytest.mark.parametrize(("verb", "room"), [("predict", 0), ("predict", 300), ("evaluate", 60)])
def test_a_mask_for_which_there_is_no_room_fails_its_case(choice, tmp_path, monkeypatch, capsys, verb, room):
    """SimpleITK writes as much as there is room for and says nothing."""
    out = tmp_path / "out"
    with monkeypatch.context() as full:
        full.setattr(cohort.Export, "_write_seg", on_a_full_disk(cohort.Export._write_seg, room))
        assert main(prediction(verb, choice, 0, out)) == 1
    said = capsys.readouterr()
    assert "missmod: 2 cases failed" in said.err
    assert "was not written whole" in said.out
    assert not [name for name in names_in(out) if name.endswith(".nii.gz")]
    assert main(prediction(verb, choice, 0, out)) == 0  # there is room again
    masks = list(out.rglob("*.nii.gz"))
    assert len(masks) == 4
    for mask in masks:
        check_whole(mask)


@pytest.mark.parametrize(("verb", "module"), [("predict", mask_table), ("evaluate", scores)])
def test_a_table_for_which_there_is_no_room_keeps_what_it_holds(choice, tmp_path, monkeypatch, capsys, verb, module):
    out = tmp_path / "out"
    append = "append_masks" if verb == "predict" else "append_case"
    user = f"nnunetv2_missmod.{'prediction.masks' if verb == 'predict' else 'evaluation.evaluate'}.{append}"
    appended = []

    def second_finds_no_room(*arguments):
        appended.append(arguments)
        write = getattr(module, append)
        return on_a_full_disk(write, 50)(*arguments) if len(appended) == 2 else write(*arguments)

    with monkeypatch.context() as full:
        full.setattr(user, second_finds_no_room)
        assert main(prediction(verb, choice, 0, out)) == 2
    assert "missmod: [Errno 27] File too large" in capsys.readouterr().err
    table = mask_table.read_masks(out) if verb == "predict" else scores.read_scores(out).table
    assert set(table["case"]) == {"a"}
    assert main(prediction(verb, choice, 0, out)) == 0


def test_a_report_for_which_there_is_no_room_leaves_the_one_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "_page", lambda *_: "its figures take seconds to draw" * 100)
    truths = write_data(tmp_path / "data", cases=("a", "b"))
    write_model(tmp_path / "scores", tmp_path / "data", truths, save=False)
    out = tmp_path / "report"
    assert main(["report", str(tmp_path / "scores"), "-o", str(out)]) == 0
    before = {name: (out / name).read_bytes() for name in names_in(out)}
    with full_disk(room=100):
        assert main(["report", str(tmp_path / "scores"), "-o", str(out)]) == 2
    assert f"missmod: [Errno 27] File too large: '{out / 'index.html'}'" in capsys.readouterr().err
    assert {name: (out / name).read_bytes() for name in names_in(out)} == before
