"""The model of the sequences: what it finds, what it leaves alone, and how it is written and read."""

import copy
import json

import numpy as np
import pytest
from small_sequences import SEQUENCES, head_features, small_head

from nnunetv2_missmod.calibration.sequence_fitting import LEAST_CASES, fit_sequences
from nnunetv2_missmod.calibration.sequence_model import SequenceModel, case_features
from nnunetv2_missmod.calibration.suspicions import Suspicion

UNTOUCHED = range(100, 112)


@pytest.fixture(scope="module")
def cases():
    return {f"case_{seed:02d}": head_features(seed) for seed in range(24)}


@pytest.fixture(scope="module")
def incomplete(cases):
    """Each third case lacks a channel, another each time."""
    lacking = {case: number // 3 % 3 for number, case in enumerate(cases) if number % 3 == 0}
    return {case: {c: f for c, f in cases[case].items() if c != lacking.get(case)} for case in cases}


@pytest.fixture(scope="module")
def model(incomplete):
    return fitted(incomplete)


def fitted(cases, modalities=SEQUENCES):
    model, why, doubtful = fit_sequences(cases, modalities)
    assert (why, doubtful) == ("", {})
    return model


def looks(suspicions):
    return {(suspicion.channel, suspicion.looks_like) for suspicion in suspicions}


def test_nothing_is_said_of_untouched_cases(model, incomplete):
    assert not [case for case, features in incomplete.items() if model.suspicions_of(features)]
    assert not [seed for seed in UNTOUCHED if model.suspicions_of(head_features(seed))]


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("complete", [True, False])
def test_two_files_exchanged_are_found(model, pair, complete):
    one, other = pair
    images = small_head(100)
    images[[one, other]] = images[[other, one]]
    available = np.array([complete or channel in pair for channel in range(3)])
    images[~available] = np.nan
    found = model.suspicions_of(case_features(images, available))
    assert [suspicion[:2] for suspicion in found] == [(one, other), (other, one)]
    assert found[0].probability == found[1].probability > 0.95


def test_a_file_alone_is_found_by_itself(model):
    features = head_features(100)
    assert looks(model.suspicions_of({1: features[2]})) == {(1, 2)}
    assert looks(model.suspicions_of({**features, 0: features[2]})) == {(0, 2)}


def test_three_files_that_moved_on_are_found(model):
    features = head_features(100)
    moved = {channel: features[(channel + 1) % 3] for channel in range(3)}
    assert looks(model.suspicions_of(moved)) == {(0, 1), (1, 2), (2, 0)}


def test_nothing_is_said_of_files_unlike_the_training_cases(model):
    strange = np.full_like(head_features(100)[0], 50.0)
    features = {0: strange, 1: head_features(100)[1]}
    assert model.unfamiliar(features) == [0]
    assert model.suspicions_of(features) == []
    assert model.unfamiliar(head_features(100)) == []


def test_a_case_without_files_has_no_suspicion(model):
    assert model.suspicions_of({}) == []


def test_sequences_that_look_alike_are_left_alone():
    """The second and third channel show the same: no file of theirs is ever suspected of being the other's."""
    twins = {f"case_{seed}": head_features(seed) | {2: head_features((seed + 7) % 24)[1]} for seed in range(24)}
    model = fitted(twins)
    for seed in UNTOUCHED:
        features = head_features(seed)
        assert model.suspicions_of(features | {2: head_features((seed + 7) % 24)[1]}) == []
        exchanged = {0: features[1], 1: features[0]}
        judged = exchanged.keys() - set(model.unfamiliar(exchanged))
        assert looks(model.suspicions_of(exchanged)) == {(channel, 1 - channel) for channel in judged}


def test_two_sequences_are_told_apart(cases):
    two = {case: {c: f for c, f in features.items() if c < 2} for case, features in cases.items()}
    model, features = fitted(two, SEQUENCES[:2]), head_features(100)
    assert looks(model.suspicions_of({0: features[1], 1: features[0]})) == {(0, 1), (1, 0)}
    assert model.suspicions_of({0: features[0], 1: features[1]}) == []


def test_a_pair_that_no_training_case_has_is_judged_too(cases):
    apart = {case: {n % 2 * 2: f[n % 2 * 2], 1: f[1]} for n, (case, f) in enumerate(cases.items())}
    model, features = fitted(apart), head_features(100)
    assert looks(model.suspicions_of({0: features[2], 2: features[0]})) == {(0, 2), (2, 0)}


def test_one_modality_has_no_model(cases):
    model, why, _ = fit_sequences({case: {0: features[0]} for case, features in cases.items()}, ["FLAIR"])
    assert model is None
    assert "FLAIR alone" in why


@pytest.mark.parametrize("count", [0, LEAST_CASES - 1])
def test_too_few_cases_have_no_model(cases, count):
    few = {
        case: features if number < count else {0: features[0], 2: features[2]}
        for number, (case, features) in enumerate(cases.items())
    }
    model, why, _ = fit_sequences(few, SEQUENCES)
    assert model is None
    assert f"at least {LEAST_CASES} training cases" in why
    assert why.endswith(f"there is T1 in {count}.")


def test_the_fewest_cases_have_a_model(cases):
    assert fitted(dict(list(cases.items())[:LEAST_CASES])).suspicions_of(head_features(100)) == []


def test_a_mixed_up_training_case_is_named_and_not_learnt_from(cases, incomplete, model):
    features = cases["case_01"]
    mixed_up = incomplete | {"case_01": features | {0: features[1], 1: features[0]}}
    again, why, doubtful = fit_sequences(mixed_up, SEQUENCES)
    assert why == ""
    assert {case: looks(suspicions) for case, suspicions in doubtful.items()} == {"case_01": {(0, 1), (1, 0)}}
    assert again.exchanged_above.max() < 2 * model.exchanged_above.max()
    of_others = fitted({case: incomplete[case] for case in incomplete if case != "case_01"})
    assert again.to_json() == of_others.to_json()


def test_the_order_of_the_cases_does_not_matter(cases, incomplete, model):
    again = fitted(dict(reversed(incomplete.items())))
    np.testing.assert_allclose(again.exchanged_above, model.exchanged_above, rtol=1e-3)
    np.testing.assert_allclose(again.weights, model.weights, atol=1e-3)


def test_a_model_is_written_and_read_again(model):
    content = json.loads(json.dumps(model.to_json(), allow_nan=False))
    again = SequenceModel.from_json(content, 3)
    assert again.to_json() == content
    features = head_features(100)
    exchanged = {**features, 0: features[1], 1: features[0]}
    assert again.suspicions_of(exchanged) == model.suspicions_of(exchanged)
    assert all(isinstance(suspicion, Suspicion) for suspicion in again.suspicions_of(exchanged))


@pytest.mark.parametrize("wrong", [None, True, "x", [], {}, 1e7, float("nan"), float("inf"), [[1.0]], 10**400])
@pytest.mark.parametrize("key", [
    "features", "mean", "deviation", "weights", "bias", "exchanged_above", "other_above", "familiar_up_to",
])  # fmt: skip
def test_a_damaged_model_is_refused(model, key, wrong):
    content = model.to_json()
    if (key, wrong) == ("familiar_up_to", 1e7):
        return  # a number like any other
    with pytest.raises(ValueError, match=rf"calibration.json: expected {key} of the sequences.*Calibrate again"):
        SequenceModel.from_json(content | {key: wrong}, 3)
    with pytest.raises(ValueError, match=f"expected {key} of the sequences"):
        SequenceModel.from_json({name: value for name, value in content.items() if name != key}, 3)
    if isinstance(content[key], list):
        inner = copy.deepcopy(content)
        inner[key][0] = wrong
        with pytest.raises(ValueError, match=f"expected {key} of the sequences"):
            SequenceModel.from_json(inner, 3)


def test_a_deviation_of_zero_and_other_modalities_are_refused(model):
    content = model.to_json()
    with pytest.raises(ValueError, match="expected weights of the sequences to be 2 lists"):
        SequenceModel.from_json(content, 2)
    with pytest.raises(ValueError, match="expected deviation of the sequences"):
        SequenceModel.from_json({**content, "deviation": [0.0, *content["deviation"][1:]]}, 3)
    with pytest.raises(ValueError, match="the model of the sequences"):
        SequenceModel.from_json([content], 3)
