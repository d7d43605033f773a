import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans
from torch import nn

from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork
from nnunetv2_missmod.host.plan_block import check_overrides, plan_block
from nnunetv2_missmod.methods.modality_dropout.network import ModalityDropoutNet
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.modalities import all_subsets


class ToyNet(MissingModalityNetwork):
    """Keeps what it was built from."""

    def __init__(
        self,
        spec,
        *,
        width: int = 4,
        alpha: float = 0.5,
        overlapping: bool = False,
        pooling: str = "mean",
        kernel: list = [3, 3],  # noqa: B006
    ):
        super().__init__(spec)
        self.built_from = (spec.num_modalities, spec.num_extra_channels, spec.num_classes, spec.deep_supervision)
        self.architecture = spec.architecture
        self.given = {
            "width": width,
            "alpha": alpha,
            "overlapping": overlapping,
            "pooling": pooling,
            "kernel": kernel,
        }


DEFAULTS = {"width": 4, "alpha": 0.5, "overlapping": False, "pooling": "mean", "kernel": [3, 3]}


def build(network_class=ToyNet, inputs=4, outputs=3, plans=None, network=None, **settings):
    plans = plans or small_plans()
    if network is not None:
        plans["configurations"][CONFIGURATION]["missmod"] = {"network": network}
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    return network_class.from_plans(plans_manager, configuration, inputs, outputs, **settings)


def configuration_with(block):
    plans = small_plans()
    plans["configurations"][CONFIGURATION]["missmod"] = block
    return PlansManager(plans).get_configuration(CONFIGURATION)


# --- from_plans -------------------------------------------------------------------------------------------------------


def test_from_plans_tells_modalities_from_the_channels_of_a_previous_stage():
    assert build(inputs=4).built_from == (4, 0, 3, True)
    assert build(inputs=6, enable_deep_supervision=False).built_from == (4, 2, 3, False)
    assert build(plans=small_plans(2), inputs=2, outputs=5).built_from == (2, 0, 5, True)


def test_from_plans_reads_the_architecture():
    architecture = build(plans=small_plans(residual=True, features=(8, 16, 24))).architecture
    assert architecture.features == [8, 16, 24]
    assert architecture.network_class_name.endswith("ResidualEncoderUNet")


def test_the_constants_of_a_network_are_its_keyword_arguments():
    assert ToyNet.constants() == DEFAULTS
    assert ModalityDropoutNet.constants() == {}


@pytest.mark.parametrize("block", [None, {}, {"alpha": 0.25, "width": 8}, {"overlapping": True, "kernel": [1, 3]}])
def test_a_plan_overrides_the_constants_of_a_network(block):
    assert build(network=block).given == {**DEFAULTS, **(block or {})}


def test_a_plan_without_a_missmod_block_is_as_good():
    plans = small_plans()
    del plans["configurations"][CONFIGURATION]["missmod"]
    assert build(plans=plans).given == DEFAULTS


def test_an_unknown_constant_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="widht") as error:
        build(network={"widht": 8, "alpha": 0.25})
    message = str(error.value)
    assert "network constants of ToyNet" in message
    for known in ("alpha = 0.5", "kernel = [3, 3]", "overlapping = False", "pooling = 'mean'", "width = 4"):
        assert known in message


def test_a_network_without_constants_says_so():
    with pytest.raises(ValueError, match=r"constants of ModalityDropoutNet. Known are: none\."):
        build(ModalityDropoutNet, network={"alpha": 0.25})


@pytest.mark.parametrize("argument", ["spec", "num_modalities", "deep_supervision", "self"])
def test_what_the_plan_itself_says_cannot_be_overridden(argument):
    with pytest.raises(ValueError, match=argument):
        build(network={argument: 1})


# --- plan_block and check_overrides -----------------------------------------------------------------------------------


def test_plan_block():
    block = {"trainer": {"alpha": 0.2}, "network": {"width": 8}}
    found = plan_block(configuration_with(block))
    assert found == block
    assert plan_block(PlansManager(small_plans(alpha=0.2)).get_configuration(CONFIGURATION)) == {
        "trainer": {"alpha": 0.2}
    }


def test_plan_block_gives_a_copy():
    configuration = configuration_with({"network": {}})
    plan_block(configuration)["trainer"] = {}
    assert configuration.configuration["missmod"] == {"network": {}}


def test_an_unknown_part_of_the_block_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"\['net'\].*network = \{\}, trainer = \{\}"):
        plan_block(configuration_with({"net": {"width": 8}, "trainer": {}}))


@pytest.mark.parametrize("part", ["trainer", "network"])
@pytest.mark.parametrize("value", [[], "alpha", 1, None])
def test_a_part_of_the_block_that_is_no_dict_is_an_error(part, value):
    with pytest.raises(ValueError, match=part):
        plan_block(configuration_with({part: value}))


@pytest.mark.parametrize("block", [None, ["network"]])
def test_a_block_that_is_no_dict_is_an_error(block):
    with pytest.raises(ValueError, match="missmod"):
        plan_block(configuration_with(block))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 8),
        ("alpha", 0.25),
        ("alpha", 1),
        ("overlapping", True),
        ("pooling", "max"),
        ("kernel", []),
        ("optional", "anything"),
        ("of_dataset", "T1c + FLAIR"),
        ("of_dataset", ""),
        ("optional", 3),
        ("optional", None),
    ],
)
def test_a_value_of_the_defaults_type_is_accepted(name, value):
    check_overrides({name: value}, {**DEFAULTS, "optional": None, "of_dataset": ""}, "constants")


@pytest.mark.parametrize("value", ["a/b", "a\\b", "..\\", "a\nb", "a\x00"])
def test_what_names_something_of_the_dataset_is_no_path(value):
    with pytest.raises(ValueError, match=r"expected a name without / and \\"):
        check_overrides({"of_dataset": value}, {"of_dataset": ""}, "settings")


@pytest.mark.parametrize("value", ["", "T1c+FLAIR", "a b", "a/b"])
def test_other_words_are_identifiers(value):
    for default in ("max", None):
        with pytest.raises(ValueError, match="expected a word like"):
            check_overrides({"word": value}, {"word": default}, "settings")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", True),
        ("width", 8.0),
        ("width", "8"),
        ("width", None),
        ("alpha", "0.25"),
        ("alpha", True),
        ("alpha", None),
        ("alpha", [0.25]),
        ("overlapping", 1),
        ("overlapping", 0.0),
        ("overlapping", "true"),
        ("overlapping", None),
        ("pooling", 3),
        ("pooling", False),
        ("kernel", 3),
        ("kernel", "3"),
    ],
)
def test_a_value_of_another_type_is_an_error(name, value):
    with pytest.raises(ValueError, match=f"{name} = ") as error:
        check_overrides({"width": 4, name: value}, DEFAULTS, "constants of ToyNet")
    assert repr(value) in str(error.value)
    assert repr(DEFAULTS[name]) in str(error.value)
    assert "constants of ToyNet" in str(error.value)


def test_every_unknown_name_is_named():
    with pytest.raises(ValueError, match=r"\['a', 'z'\]"):
        check_overrides({"z": 1, "width": 4, "a": 1}, DEFAULTS, "constants")


# --- forward_subsets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("extra", [0, 2])
def test_forward_subsets_is_forward_for_each_subset(dims, extra):
    torch.manual_seed(0)
    plans = small_plans(3, dims=dims, features=(8, 8, 8))
    network = build(ModalityDropoutNet, inputs=3 + extra, plans=plans, enable_deep_supervision=False).eval()
    images = torch.randn(2, 3 + extra, *[16] * dims)
    presents = all_subsets(3)
    with torch.no_grad():
        logits = network.forward_subsets(images, presents)
        assert logits.shape == (7, 2, 3, *[16] * dims)
        for number, present in enumerate(presents):
            assert torch.equal(logits[number], network(images, present.repeat(2, 1)))
    assert len({tuple(subset.flatten()[:50].tolist()) for subset in logits}) == 7


def test_forward_subsets_shows_every_subset_to_every_sample():
    class Recorder(MissingModalityNetwork):
        def __init__(self, spec):
            super().__init__(spec)
            self.seen = []
            self.head = nn.Identity()

        def forward(self, images, present=None):
            self.seen.append(present)
            return images[:, :1]

    network = build(Recorder)
    presents = torch.tensor([[True, False, True], [False, True, False]])
    images = torch.randn(5, 4, 8, 8)
    assert network.forward_subsets(images, presents).shape == (2, 5, 1, 8, 8)
    for seen, present in zip(network.seen, presents, strict=True):
        assert seen.shape == (5, 3)
        assert seen.dtype == torch.bool
        assert (seen == present).all()


# --- weights that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_not_loaded(wrong):
    """As nnU-Net's own predictor and `--c` load them; a network is left as it was."""
    network = ModalityDropoutTrainer.build_network_architecture(*managers(), 2, 3, False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = {name: tensor + 1 for name, tensor in before.items()}
    name = list(weights)[-1]
    weights[name].view(-1)[-1] = wrong
    with pytest.raises(ValueError, match=rf"got NaN or infinity in {name}"):
        network.load_state_dict(weights)
    torch.testing.assert_close(dict(network.state_dict()), before)
    weights[name].view(-1)[-1] = 0
    assert not network.load_state_dict(weights).missing_keys
    del weights[name]
    assert network.load_state_dict(weights, strict=False).missing_keys == [name]


def managers():
    manager = PlansManager(small_plans(2))
    return manager, manager.get_configuration(CONFIGURATION)
