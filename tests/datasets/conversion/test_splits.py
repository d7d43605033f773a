import json

import pytest

from nnunetv2_missmod.datasets.conversion.splits import read_splits, subject_splits

SCANS = {f"p{number:02d}_{scan}": f"p{number:02d}" for number in range(13) for scan in range(number % 3 + 1)}
CASES = {case: case for case in ("a", "b", "c", "d", "e", "f")}


def write(folder, name, *lines):
    file = folder / name
    file.write_text("\n".join([*lines, ""]))
    return file


def sides(splits):
    return [(fold["train"], fold["val"]) for fold in splits]


# --- by subject -------------------------------------------------------------------------------------------------------


def test_every_case_is_validated_on_once_and_trained_on_otherwise():
    splits = subject_splits(SCANS)
    assert len(splits) == 5
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(SCANS)
    for fold in splits:
        assert list(fold) == ["train", "val"] and sorted(fold["train"] + fold["val"]) == sorted(SCANS)


def test_no_subject_is_on_both_sides():
    for fold in subject_splits(SCANS):
        assert not {SCANS[case] for case in fold["train"]} & {SCANS[case] for case in fold["val"]}


def test_folds_are_of_about_one_size():
    sizes = [len(fold["val"]) for fold in subject_splits(SCANS)]
    assert max(sizes) - min(sizes) <= 1
    one_large = {f"large_{scan}": "large" for scan in range(10)} | CASES
    assert sorted(len(fold["val"]) for fold in subject_splits(one_large, 3)) == [3, 3, 10]


def test_the_same_cases_give_the_same_folds_in_whatever_order():
    assert subject_splits(dict(reversed(SCANS.items()))) == subject_splits(SCANS)


def test_folds_are_no_blocks_of_names():
    names = {f"{site}_{number}": f"{site}_{number}" for site in "ABCDE" for number in range(20)}
    for fold in subject_splits(names):
        assert {case[0] for case in fold["val"]} == set("ABCDE")


@pytest.mark.parametrize(("subjects", "folds"), [(0, 0), (1, 0), (2, 2), (4, 4), (5, 5), (6, 5)])
def test_there_are_no_more_folds_than_subjects(subjects, folds):
    splits = subject_splits({f"{number}_{scan}": str(number) for number in range(subjects) for scan in range(2)})
    assert len(splits) == folds and all(fold["train"] and fold["val"] for fold in splits)


def test_one_fold_is_too_few():
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        subject_splits(SCANS, 1)


# --- from files -------------------------------------------------------------------------------------------------------


def test_nnunets_own_file(tmp_path):
    file = tmp_path / "splits_final.json"
    splits = subject_splits(CASES, 3)
    file.write_text(json.dumps(splits))
    assert read_splits([file], CASES) == splits


def test_lists_as_rfnet_and_mmformer_publish_them(tmp_path):
    files = [
        write(tmp_path, "train.txt", "HGG/b", "LGG/a", "", "./Training/HGG/c/"),
        write(tmp_path, "val.txt", "d"),
        write(tmp_path, "test.txt", "e"),
    ]
    assert sides(read_splits(files, CASES)) == [(["a", "b", "c"], ["d"])]
    assert read_splits(files[:2], CASES) == read_splits(files[::-1], CASES)


def test_lists_as_csv_that_name_each_case_many_times(tmp_path):
    files = [
        write(tmp_path, "train.txt", "a", "b"),
        write(tmp_path, "val15splits.csv", "case,mask", "c,True", "c,False", "d,True"),
        write(tmp_path, "test15splits.csv", "case,mask", "e,True"),
    ]
    assert sides(read_splits(files, CASES)) == [(["a", "b"], ["c", "d"])]


def test_lists_of_several_folds(tmp_path):
    folds = {10: ("ab", "ef"), 2: ("cd", "ab"), 1: ("ab", "cd")}
    files = [
        write(tmp_path, f"{side}{fold}.txt", *cases)
        for fold, both in folds.items()
        for side, cases in zip(("train", "val"), both, strict=True)
    ]
    expected = [(list(train), list(val)) for train, val in (folds[1], folds[2], folds[10])]
    assert sides(read_splits(files, CASES)) == expected


def test_partitions_of_fets(tmp_path):
    lines = ("Partition_ID,Subject_ID", "10,a", "1,b", "1,c", "2,d")
    splits = read_splits([write(tmp_path, "partitioning_1.csv", *lines)], CASES)
    assert sides(splits) == [(["a", "d"], ["b", "c"]), (["a", "b", "c"], ["d"]), (["b", "c", "d"], ["a"])]


@pytest.mark.parametrize("column", ["fold", "Split"])
def test_a_table_of_folds(tmp_path, column):
    lines = (f"\ufeffCase, age, {column}", "a, 50, 0", "b, 60, 1", "c, 70, 1", "d, 80, test")
    splits = read_splits([write(tmp_path, "folds.csv", *lines)], CASES)
    assert sides(splits) == [(["b", "c"], ["a"]), (["a"], ["b", "c"])]


def test_a_table_of_sides(tmp_path):
    lines = ("case,split", "a,Training", "b,train", "c,validation", "d,test")
    assert sides(read_splits([write(tmp_path, "s.csv", *lines)], CASES)) == [(["a", "b"], ["c"])]


def test_cases_that_are_known_to_be_left_out_are_left_out(tmp_path):
    files = [write(tmp_path, "train.txt", "a", "b", "refused"), write(tmp_path, "val.txt", "c")]
    assert sides(read_splits(files, CASES, left_out=["refused"])) == [(["a", "b"], ["c"])]
    with pytest.raises(ValueError, match=r"got refused, of which the dataset has none.*called as a"):
        read_splits(files, CASES)


def test_test_cases_need_not_be_in_the_dataset(tmp_path):
    files = [write(tmp_path, f"{side}.txt", case) for side, case in (("train", "a"), ("val", "b"), ("test", "z"))]
    assert sides(read_splits(files, CASES)) == [(["a"], ["b"])]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "ab", "val": "bc"}, "got b in both train and val"),
        ({"train": "ab", "val": "c", "test": "a"}, "got a in both train and test"),
        ({"train": "ab", "val": "c", "test": "c"}, "got c in both val and test"),
        ({"train": "ab", "val": ""}, "cases to val fold 0 on"),
        ({"train": "", "val": "a"}, "cases to train fold 0 on"),
        ({"train": "ab"}, "none for val"),
        ({"val": "ab"}, "none for train"),
        ({"train": "ab", "test": "c"}, "call it val"),
        ({"train": "ab", "val": "c", "other": "d"}, "got .*other.txt"),
        ({"train": "ab", "val": "c", "val_2": "d"}, "val_2.txt as another"),
        ({"train1": "ab", "val1": "c", "train2": "d", "val3": "e"}, "for val of 2"),
        ({"train_and_val": "ab"}, "train_and_val.txt"),
    ],
)
def test_lists_that_cannot_be(tmp_path, lists, message):
    files = [write(tmp_path, f"{name}.txt", *cases) for name, cases in lists.items()]
    with pytest.raises(ValueError, match=message):
        read_splits(files, CASES)


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_subject_on_both_sides_is_an_error(tmp_path, held_out):
    lists = {"train": ["p02_0", "p01_0"], "val": ["p03_0"], held_out: ["p02_1"]}
    files = [write(tmp_path, f"{side}.txt", *cases) for side, cases in lists.items()]
    with pytest.raises(ValueError, match=rf"p02_0 \(train\) and p02_1 \({held_out}\) are both of p02"):
        read_splits(files, SCANS)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("splits.json", "{", "nnU-Net's list"),
        ("splits.json", '{"train": ["a"], "val": ["b"]}', "nnU-Net's list"),
        ("splits.json", '[{"train": ["a"]}]', "nnU-Net's list"),
        ("splits.json", "[]", "found none"),
        ("folds.csv", "case,side\na,0", "columns case and fold .*got case, side"),
        ("folds.csv", "", "a line for each case"),
        ("folds.csv", "case,fold\n", "a line for each case"),
        ("folds.csv", "case,fold\na,\nb,1", "found an empty one"),
        ("folds.csv", "case,fold\na\nb,1", "found an empty one"),
        ("folds.csv", "case,fold\na,train\nb,1", "got train beside folds"),
        ("folds.csv", "case,fold\na,0\nb,0", "cases to train fold 0 on"),
        ("train.csv", "name\na", "columns case and fold"),
    ],
)
def test_files_that_cannot_be(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_splits([file], CASES)


def test_a_list_of_other_columns_is_an_error(tmp_path):
    files = [write(tmp_path, "train.txt", "a"), write(tmp_path, "val.csv", "name", "b")]
    with pytest.raises(ValueError, match="column case in"):
        read_splits(files, CASES)


def test_a_file_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt, which is none"):
        read_splits([tmp_path / "none.txt"], CASES)
