"""dataset.json is read in one place, and what is wrong with it is one line."""

import copy
import json

import pytest
from small_plans import small_dataset_json

from nnunetv2_missmod.files.dataset_json import channel_names, read_dataset_json

REMOVED = Ellipsis  # in place of a value: the entry is taken out


def changed(key, value, **kwargs):
    content = copy.deepcopy(small_dataset_json(2, **kwargs))
    if value is REMOVED:
        del content[key]
    else:
        content[key] = value
    return content


def read(folder, content):
    (folder / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_dataset_json(folder / "dataset.json")


RIGHT = [
    small_dataset_json(1),
    small_dataset_json(12),
    small_dataset_json(2, regions=True),
    small_dataset_json(2, ignore=True),
    small_dataset_json(2, regions=True, ignore=True),
    changed("channel_names", {"0": "T2/FLAIR", "1": "a+b, c\\d"}),
    changed("channel_names", {"1": "zscore", "0": "zscore"}),
    changed("channel_names", {"00": "größer als 1", "01": "T1 (post) <c>"}),
    {**changed("channel_names", REMOVED), "modality": {"0": "MRI", "1": "CT"}},
    changed("labels", {"background": 0, "left/right": 1, "GTV+LN": [2]}),
    changed("labels", {"background": 0, "once": 1, "again": 1}),
    changed("labels", {"background": "0", "edema": "1", "core": "2"}),
    changed("file_ending", ".png"),
    changed("file_ending", ".nii"),
    {**small_dataset_json(2), "overwrite_image_reader_writer": "NibabelIO", "anything": [None]},
]


@pytest.mark.parametrize("content", RIGHT, ids=range(len(RIGHT)))
def test_what_nnunet_takes_is_taken(tmp_path, content):
    assert read(tmp_path, content) == content
    assert len(channel_names(content)) == len(content.get("channel_names", content.get("modality")))


def test_the_channels_are_in_order_of_their_numbers():
    names = {str(channel): f"m{channel}" for channel in (10, 2, 0, 1, 9, 8, 7, 6, 5, 4, 3)}
    assert channel_names({"channel_names": names}) == [f"m{channel}" for channel in range(11)]


WRONG = [
    ("channel_names", REMOVED),
    ("channel_names", []),
    ("channel_names", {}),
    ("channel_names", ["T1", "T2"]),
    ("channel_names", {"1": "T1", "2": "T2"}),
    ("channel_names", {"0": "T1", "00": "T2"}),
    ("channel_names", {"0": "T1", "one": "T2"}),
    ("channel_names", {"0": "T1", "-1": "T2"}),
    ("channel_names", {"0": "T1", "١": "T2"}),
    *(
        ("channel_names", {"0": "T1", "1": name})
        for name in ("", " ", "..", "T2 ", " T2", "T2\0", "a\rb", "a\nb", "=T2")
    ),
    *(
        ("channel_names", {"0": "T1", "1": name})
        for name in ("+T2", "@T2", "-T2", ".T2", "../T2", "\ud800", None, 5, ["T2"])
    ),
    ("labels", REMOVED),
    ("labels", []),
    ("labels", {}),
    ("labels", {"tumor": 1}),
    ("labels", {"background": 1, "tumor": 0}),
    ("labels", {"background": [0], "tumor": 1}),
    ("labels", {"background": False, "tumor": 1}),
    *(
        ("labels", {"background": 0, "tumor": value})
        for value in ("one", "-1", "²", 1.0, True, None, -1, [], [-1], ["one"], {}, 2, 10**9)
    ),
    ("labels", {"background": 0, "tumor": 1, "ignore": 3}),
    ("labels", {"background": 0, "tumor": 1, "ignore": [2]}),
    ("labels", {"background": 0, "=tumor": 1}),
    ("file_ending", REMOVED),
    *(
        ("file_ending", value)
        for value in ("", "nii.gz", ".", "..", "./nii", ".nii/..", ".nii.gz ", ".n\0", 5, None, [".nii"], {})
    ),
    ("overwrite_image_reader_writer", 5),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda each: repr(each)[:50])
def test_a_wrong_entry_is_one_line_that_names_file_and_entry(tmp_path, key, value):
    with pytest.raises(ValueError, match=key.removesuffix("s")) as error:
        read(tmp_path, changed(key, value))
    assert str(error.value).startswith(f"{tmp_path / 'dataset.json'}: expected ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("order", [REMOVED, None, [1, 2], [1, 2, 4], [1, 2, "3"], [1, 2, -1], "123"])
def test_regions_need_their_order(tmp_path, order):
    with pytest.raises(ValueError, match=r"regions_class_order to be a list of a label's value for each of the 3 reg"):
        read(tmp_path, changed("regions_class_order", order, regions=True))


@pytest.mark.parametrize(
    "content", ["[]", "5", "null", '"text"', "{", "", "[" * 10**5, '{"a": ' + "1" * 5000 + "}", "\ud800"]
)
def test_what_is_no_object_is_named(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=rf"Expected dataset.json of nnU-Net at {tmp_path / 'dataset.json'}"):
        read_dataset_json(tmp_path / "dataset.json")


def test_modality_names_checks_as_well():
    for content in ({}, {"channel_names": []}, {"channel_names": {"a": "b"}}, {"channel_names": {"0": ".."}}):
        with pytest.raises(ValueError, match=r"^dataset\.json: expected channel_names"):
            channel_names(content)
