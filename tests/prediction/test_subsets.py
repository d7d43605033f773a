import numpy as np
import pytest

from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.prediction.subsets import choose_subsets

BRATS = ["FLAIR", "T1", "T1c", "T2"]
MANY = [f"mod{number}" for number in range(7)]


def dataset_json(*names):
    return {"channel_names": {str(channel): name for channel, name in enumerate(names)}}


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_all_are_the_subsets_of_the_vocabulary_smallest_first():
    subsets = choose_subsets("all", BRATS)
    np.testing.assert_array_equal(subsets.present, all_subsets(4).numpy())
    assert subsets.names[:5] == ["FLAIR", "T1", "T1c", "T2", "FLAIR+T1"]
    assert subsets.names[-1] == "FLAIR+T1+T1c+T2"
    assert not subsets.sampled


@pytest.mark.parametrize(("num_modalities", "sampled"), [(5, False), (6, True), (7, True)])
def test_beyond_five_modalities_a_sample_of_31_is_said_to_be_one(num_modalities, sampled):
    subsets = choose_subsets("all", MANY[:num_modalities])
    assert subsets.sampled is sampled
    assert len(subsets.names) == len(set(subsets.names)) == 31


def test_singles_are_each_modality_alone():
    subsets = choose_subsets("singles", MANY)
    assert subsets.names == MANY
    np.testing.assert_array_equal(subsets.present, np.eye(7, dtype=bool))
    assert not subsets.sampled


@pytest.mark.parametrize("chosen", ["FLAIR+T1c,T2", "T1c+FLAIR,T2", " T1c + FLAIR , T2 "])
def test_a_list_keeps_its_order_and_takes_modalities_in_any(chosen):
    subsets = choose_subsets(chosen, BRATS)
    assert subsets.modalities == BRATS
    assert subsets.names == ["FLAIR+T1c", "T2"]
    assert subsets.present.tolist() == [[True, False, True, False], [False, False, False, True]]
    assert subsets.members(0) == ["FLAIR", "T1c"]


def test_a_list_is_no_sample_whatever_the_number_of_modalities():
    subsets = choose_subsets("mod6,mod0+mod6", MANY)
    assert subsets.names == ["mod6", "mod0+mod6"]
    assert not subsets.sampled


def test_a_modality_may_be_called_like_part_of_another():
    assert choose_subsets("T1", ["T1c", "T1"]).present.tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("chosen", "unknown"),
    [("T7", "T7"), ("FLAIR+T7,T2", "T7"), ("flair", "flair"), ("", ""), ("FLAIR,", ""), ("FLAIR++T2", "")],
)
def test_what_is_no_modality_is_named_beside_those_that_there_are(chosen, unknown):
    expected = rf"all, singles, or subsets such as FLAIR\+T1,T2 of the modalities FLAIR, T1, T1c, T2, got '{unknown}'"
    with pytest.raises(ValueError, match=expected):
        choose_subsets(chosen, BRATS)


@pytest.mark.parametrize("chosen", ["T2,T2", "FLAIR+T2,T1,T2+FLAIR", "T2+T2,T2"])
def test_a_subset_that_is_asked_for_twice_is_an_error(chosen):
    with pytest.raises(ValueError, match="every subset once"):
        choose_subsets(chosen, BRATS)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_channels_in_their_order():
    names = {"10": "k", "2": "c", **{str(channel): f"m{channel}" for channel in (0, 1, 3, 4, 5, 6, 7, 8, 9)}}
    found = distinct_names({"channel_names": names})
    assert found == ["m0", "m1", "c", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "k"]


def test_names_that_several_channels_share_get_the_channels_number():
    assert distinct_names(dataset_json("zscore", "CT", "zscore")) == ["zscore_0000", "CT", "zscore_0002"]


@pytest.mark.parametrize("sign", ["+", "/", "\\", ","])
def test_a_sign_that_joins_or_parts_names_becomes_a_dash(sign):
    (first, second) = distinct_names(dataset_json(f"T1{sign}Gd", "T2"))
    assert (first, second) == ("T1-Gd", "T2")
    assert choose_subsets("all", [first, second]).names == ["T1-Gd", "T2", "T1-Gd+T2"]


def test_names_that_become_equal_without_their_signs_are_told_apart():
    assert distinct_names(dataset_json("T1+Gd", "T1/Gd")) == ["T1-Gd_0000", "T1-Gd_0001"]


def test_the_old_spelling_of_channel_names_is_read():
    assert distinct_names({"modality": {"0": "FLAIR", "1": "T1"}}) == ["FLAIR", "T1"]


def test_of_a_dedicated_model_all_are_those_that_have_what_it_needs_itself_first():
    subsets = choose_subsets("all", BRATS, (0, 2))
    assert subsets.names == ["FLAIR+T1c", "FLAIR+T1+T1c", "FLAIR+T1c+T2", "FLAIR+T1+T1c+T2"]
    assert subsets.needed == (0, 2)
    assert choose_subsets("FLAIR+T1c+T2", BRATS, (0, 2)).names == ["FLAIR+T1c+T2"]
    of_many = choose_subsets("all", MANY, (1, 2, 4))
    assert of_many.names[0] == "mod1+mod2+mod4"
    assert of_many.sampled
    assert (of_many.present[:, [1, 2, 4]]).all()
    assert len(np.unique(of_many.present, axis=0)) == len(of_many.present)


@pytest.mark.parametrize("chosen", ["singles", "FLAIR+T1c,T1", "FLAIR"])
def test_a_subset_without_what_a_dedicated_model_needs_is_an_error(chosen):
    with pytest.raises(ValueError, match=r"Expected subsets with FLAIR\+T1c, which this model was trained for alone"):
        choose_subsets(chosen, BRATS, (0, 2))
