import numpy as np
import pytest

from nnunetv2_missmod.datasets.layouts.label_names import parse_labels, scheme_of


def scheme(*texts):
    return scheme_of(parse_labels(texts))


def test_names_and_values_are_read():
    assert parse_labels(["core=1, 4", "edema = 2"]) == {"core": (1, 4), "edema": (2,)}
    assert parse_labels([]) == {}


@pytest.mark.parametrize("text", ["core", "core=", "=1", "core=one", "core=1,", "core=-1", "core=1.0", "core=1=2"])
def test_what_is_no_label_is_named(text):
    with pytest.raises(ValueError, match=f"NAME=VALUE.*{text}"):
        parse_labels(["edema=2", text])


def test_a_name_may_be_there_once():
    with pytest.raises(ValueError, match="core twice"):
        parse_labels(["core=1", "core=4"])


def test_plain_labels_are_numbered_without_gaps():
    plain = scheme("edema=2", "core=1", "enhancing=4")
    assert plain.from_source == {0: 0, 2: 1, 1: 2, 4: 3}
    assert plain.labels == {"background": 0, "edema": 1, "core": 2, "enhancing": 3}
    assert plain.regions_class_order == ()


def test_ignored_values_become_the_last_label():
    plain = scheme("ignore=1,9", "lesion=3")
    assert plain.from_source == {0: 0, 3: 1, 1: 2, 9: 2}
    assert plain.labels == {"background": 0, "lesion": 1, "ignore": 2}
    assert plain.to_source() == {0: 0, 1: 3, 2: 1}


def test_values_of_the_background_become_0():
    assert scheme("background=0,5", "lesion=1").from_source == {0: 0, 5: 0, 1: 1}
    assert scheme("background=5", "lesion=1").to_source() == {0: 0, 1: 1}


def test_nested_names_become_the_regions_of_brats():
    regions = scheme("enhancing tumor=4", "whole tumor=1,2,4", "tumor core=1,4")
    assert regions.from_source == {0: 0, 2: 1, 1: 2, 4: 3}
    assert list(regions.labels) == ["background", "whole tumor", "tumor core", "enhancing tumor"]
    assert regions.labels["whole tumor"] == [1, 2, 3] and regions.labels["enhancing tumor"] == [3]
    assert regions.regions_class_order == (1, 2, 3)


def test_one_name_of_several_values_makes_regions():
    regions = scheme("lesion=1,2", "vessel=7", "ignore=3")
    assert regions.labels == {"background": 0, "lesion": [1, 2], "vessel": [3], "ignore": 4}
    assert regions.regions_class_order == (1, 3)


@pytest.mark.parametrize(
    "texts",
    [
        ("whole=1,2,4", "core=1,4", "enhancing=4"),
        ("whole=1,2,4", "edema=2", "core=1,4", "enhancing=4"),  # nothing of the whole is left beside its parts
        ("all=1,2,3,4,5", "left=1,2", "right=4", "tip=1"),
        ("one=3", "other=1,2"),
    ],
)
def test_regions_painted_in_order_give_back_the_labels(texts):
    """As nnU-Net does: where a region is predicted, its entry of regions_class_order is written."""
    regions = scheme(*texts, "ignore=9")
    truth = np.array(sorted(set(regions.from_source.values()) - {regions.labels["ignore"]}))
    painted = np.zeros_like(truth)
    named = [label for name, label in regions.labels.items() if name not in ("background", "ignore")]
    for labels, number in zip(named, regions.regions_class_order, strict=True):
        painted[np.isin(truth, labels)] = number
    for labels in named:
        np.testing.assert_array_equal(np.isin(painted, labels), np.isin(truth, labels))


def test_numbers_of_regions_have_no_gaps():
    regions = scheme("all=1,2,3,40,5", "left=1,2", "right=40", "tip=1", "ignore=9")
    assert sorted(set(regions.from_source.values())) == list(range(7))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("core=1,4", "necrosis=1,2"), "core and necrosis share 1"),
        (("core=1,4", "tumor=4,1"), "core and tumor of the same"),
        (("core=1", "tumor=1"), "core and tumor of the same"),
        (("lesion=0,1",), "0 to be background alone, but lesion"),
        (("ignore=0", "lesion=1"), "0 to be background alone, but ignore"),
        (("ignore=1", "lesion=1,2"), "1 to be ignore alone, but lesion"),
        (("background=0,1", "lesion=1"), "1 to be background alone, but lesion"),
    ],
)
def test_labels_that_contradict_each_other(texts, message):
    with pytest.raises(ValueError, match=message):
        scheme(*texts)


def test_digits_of_other_scripts_are_no_numbers():
    with pytest.raises(ValueError, match="whole numbers"):
        parse_labels(["lesion=٣"])
