"""A name in a plan is a layer, a network or one of nnU-Net's own classes, or it is refused before it is imported."""

import sys

import pytest
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunetv2_missmod.files.entries import Place
from nnunetv2_missmod.host.named_classes import (
    check_resampling,
    find_label_manager,
    find_layer,
    find_network,
    find_normalization,
    find_reader,
)

PLACE = Place("plans.json", "of configuration 3d_fullres")
KEY = "architecture.arch_kwargs.nonlin"
FOREIGN = [
    "subprocess.Popen",
    "os.system",
    "builtins.exec",
    "exec",
    "nonlin",
    "",
    ".",
    "torch",
    "torch.nn",
    "torch.nn.",
    "torch.nn..ReLU",
    "torch.hub.load",
    "torch.load",
    "torch.nn.Module.__subclasses__",
    "torch.nn.Module.__init__",
    "torch.nn.Module.load_state_dict",
    "torch.nn.__builtins__",
    "torch.nn.modules.module.torch.os.system",
    "torch.nn.modules.module.torch.nn.ReLU",
    "torch.nn.modules.module.OrderedDict",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.container.operator.attrgetter",
    "torch.nn.functional.relu",
    "torch.nn.init.normal_",
    "torch.nn.utils.parametrize.cached",
    "torch.nn.Parameter",
    "torch.nn.quantized.FloatFunctional",
    "torch.nnn.ReLU",
    "torch.nn_evil.ReLU",
    "dynamic_network_architectures.architectures.unet.torch.hub.load",
    "dynamic_network_architectures.architectures.unet.Union",
    "dynamic_network_architectures.architectures.unet.nn",
    "dynamic_network_architectures.building_blocks.helper.get_matching_convtransp",
    "dynamic_network_architectures_evil.PlainConvUNet",
    "nnunetv2_missmod.host.doors.find_command",
    "nnunetv2_missmod.cli.demo.run_demo",
    "nnunetv2_missmod.training.trainer.Batch",
    "nnunetv2_missmod.host.doors.shutil.rmtree",
    "torch.nn.ReLU ",
    "torch.nn.ＲeLU",
    "torch.nn.ReLU\0",
    "torch/nn/ReLU",
    "../torch.nn.ReLU",
    None,
    5,
    1.5,
    True,
    ["torch.nn.ReLU"],
    {"torch.nn.ReLU": 1},
]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("torch.nn.LeakyReLU", nn.LeakyReLU),
        ("torch.nn.modules.conv.Conv3d", nn.Conv3d),
        ("torch.nn.modules.instancenorm.InstanceNorm2d", nn.InstanceNorm2d),
        ("torch.nn.modules.dropout.Dropout3d", nn.Dropout3d),
        ("dynamic_network_architectures.architectures.unet.PlainConvUNet", PlainConvUNet),
    ],
)
def test_a_layer_is_found_by_its_full_name(name, layer):
    assert find_layer(name, KEY, PLACE) is layer
    assert find_network(name, KEY, PLACE) is layer


@pytest.mark.parametrize("find", [find_layer, find_network])
@pytest.mark.parametrize("name", FOREIGN, ids=str)
def test_anything_else_is_an_error_that_names_the_key(find, name):
    said = (
        rf"^plans.json: expected {KEY} of configuration 3d_fullres to be the full name of a (layer|network) of torch.nn"
    )
    with pytest.raises(ValueError, match=said):
        find(name, KEY, PLACE)


def test_a_module_of_elsewhere_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil.Layer", "evil", "torch.nn.evil.Layer", "dynamic_network_architectures.evil.Layer"):
        with pytest.raises(ValueError, match=r"architecture\.arch_kwargs\.nonlin"):
            find_network(name, KEY, PLACE)
    assert "evil" not in sys.modules


def test_a_foreign_class_that_an_allowed_module_holds_is_refused(monkeypatch):
    foreign = type("Foreign", (nn.Module,), {"__module__": "elsewhere"})
    monkeypatch.setattr(nn, "Foreign", foreign, raising=False)
    with pytest.raises(ValueError, match="nonlin"):
        find_layer("torch.nn.Foreign", KEY, PLACE)


def test_a_network_that_has_moved_is_found_as_nnunet_finds_it():
    """What nnU-Net makes of a residual encoder in plans before 2.4."""
    name = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"
    assert find_network(name, KEY, PLACE) is ResidualEncoderUNet
    with pytest.raises(ValueError, match="a layer"):
        find_layer(name, KEY, PLACE)
    with pytest.raises(ValueError, match="a network"):
        find_network("elsewhere.ResidualEncoderUNet", KEY, PLACE)


NNUNETS = [
    (find_reader, "NibabelIO", NibabelIO, "image_reader_writer", "BaseReaderWriter"),
    (find_label_manager, "LabelManager", LabelManager, "label_manager", "LabelManager"),
    (find_normalization, "ZScoreNormalization", None, "normalization_schemes", "ImageNormalization"),
]
NO_CLASS = [
    "os",
    "np",
    "BaseReaderWriter",
    "ImageNormalization",
    "Union",
    "abstractmethod",
    "x.y",
    "../x",
    "",
    "1",
    None,
    5,
    [],
    {},
]


@pytest.mark.parametrize(("find", "name", "found", "key", "base"), NNUNETS)
def test_nnunets_classes_are_found_and_nothing_else(find, name, found, key, base):
    assert found in (None, find(name, key, PLACE))
    assert find(name, key, PLACE).__name__ == name
    for wrong in [*NO_CLASS, "join", "isfile", "SimpleITKIOO", "__doc__", "sitk", "nib", "Type", "List"]:
        with pytest.raises(ValueError, match=f"expected {key} of configuration 3d_fullres to be the name of a {base}"):
            find(wrong, key, PLACE)


def test_resampling_is_one_of_nnunets_functions_with_arguments_that_it_has():
    kwargs = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    check_resampling("resample_data_or_seg_to_shape", kwargs, "resampling_fn_data", PLACE)
    for wrong in ("os", "np", "map_coordinates", "ANISO_THRESHOLD", "Callable", "torch", "partial", None, 5):
        with pytest.raises(ValueError, match="expected resampling_fn_data of configuration 3d_fullres"):
            check_resampling(wrong, {}, "resampling_fn_data", PLACE)
    for wrong in ({"orde": 3}, {"data": 1}):
        with pytest.raises(
            ValueError, match=r"expected resampling_fn_data_kwargs .* arguments of resample_data_or_seg"
        ):
            check_resampling("resample_data_or_seg_to_shape", wrong, "resampling_fn_data", PLACE)
