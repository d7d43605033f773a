"""Classes that a plan or a checkpoint names: only what may stand there is found, and nothing else is imported.

A plan comes with a model from anywhere, and a name such as ``subprocess.Popen`` or ``torch.nn.modules.module.torch.os``
is a program. A layer or a network is therefore a class of an installed module of few packages, named where a module
holds it, and defined in these packages as well; what nnU-Net looks up in its own folders is of the kind asked for.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import nnunetv2
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunetv2_missmod.files.entries import Place, is_word

NETWORKS = "dynamic_network_architectures"
LAYER_PACKAGES = ("torch.nn", NETWORKS, "nnunetv2_missmod.building_blocks", "nnunetv2_missmod.methods")
MOVED_FROM, MOVED_TO = f"{NETWORKS}.architectures", f"{NETWORKS}.architectures.unet"  # the U-Nets of older plans

A_LAYER = f"the full name of a layer of {', '.join(LAYER_PACKAGES)}"
A_NETWORK = f"the full name of a network of {', '.join(LAYER_PACKAGES)}"

Found = TypeVar("Found")


def find_layer(name: Any, key: str, place: Place) -> type[nn.Module]:
    """Find a layer's class.

    Args:
        name: such as torch.nn.LeakyReLU.
        key: where in the plan it stands.
        place: the plan.

    Raises:
        ValueError: it is something else than a layer of ``LAYER_PACKAGES``; nothing else was imported.
    """
    found = _module_class(name)
    if found is None:
        place.refuse(key, A_LAYER, name)
    return found


def find_network(name: Any, key: str, place: Place) -> type[nn.Module]:
    """Find a network's class; as in nnU-Net, also a U-Net that has moved within dynamic_network_architectures.

    Raises:
        ValueError: it is something else than a network of ``LAYER_PACKAGES``; nothing else was imported.
    """
    found = _module_class(name) or _moved(name)
    if found is None:
        place.refuse(key, A_NETWORK, name)
    return found


def find_reader(name: Any, key: str, place: Place) -> type[BaseReaderWriter]:
    """Find one of nnU-Net's readers; ValueError if it is none."""
    return _find_in_nnunet(name, BaseReaderWriter, "imageio", key, place)


def find_normalization(name: Any, key: str, place: Place) -> type[ImageNormalization]:
    """Find one of nnU-Net's normalisations; ValueError if it is none."""
    return _find_in_nnunet(name, ImageNormalization, "preprocessing.normalization", key, place)


def find_label_manager(name: Any, key: str, place: Place) -> type[LabelManager]:
    """Find one of nnU-Net's label managers; ValueError if it is none."""
    return _find_in_nnunet(name, LabelManager, "utilities.label_handling", key, place)


def check_resampling(name: Any, kwargs: Any, key: str, place: Place) -> None:
    """Check that a plan names one of nnU-Net's functions for resampling, and arguments that it has.

    Raises:
        ValueError: it is something else.
    """
    package = "nnunetv2.preprocessing.resampling"
    found: Any = _search(package, name) if is_word(name) else None
    if not (inspect.isfunction(found) and _within(found.__module__, package)):
        place.refuse(key, "the name of one of nnU-Net's functions for resampling", name)
    try:
        inspect.signature(found).bind("data", "new_shape", "current_spacing", "new_spacing", **kwargs)
    except TypeError:
        place.refuse(f"{key}_kwargs", f"arguments of {name}", kwargs)


def _module_class(name: Any) -> type[nn.Module] | None:
    if not (isinstance(name, str) and all(map(is_word, name.split(".")))):
        return None
    module, _, attribute = name.rpartition(".")
    if not _within(module, *LAYER_PACKAGES):
        return None
    try:
        return _as_module_class(getattr(importlib.import_module(module), attribute, None))
    except Exception:  # whatever keeps a module from being imported, there is no layer in it
        return None


def _moved(name: Any) -> type[nn.Module] | None:
    is_network = isinstance(name, str) and _within(name, MOVED_FROM) and all(map(is_word, name.split(".")))
    return _module_class(f"{MOVED_TO}.{name.rpartition('.')[2]}") if is_network else None


def _as_module_class(found: Any) -> type[nn.Module] | None:
    is_ours = isinstance(found, type) and issubclass(found, nn.Module) and _within(found.__module__, *LAYER_PACKAGES)
    return found if is_ours else None


def _find_in_nnunet(name: Any, base: type[Found], package: str, key: str, place: Place) -> type[Found]:
    found: Any = _search(f"nnunetv2.{package}", name) if is_word(name) else None
    is_one = isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found)
    if not (is_one and _within(found.__module__, f"nnunetv2.{package}")):
        place.refuse(key, f"the name of a {base.__name__} of nnU-Net", name)
    return cast(type[Found], found)


@cache
def _search(package: str, name: str) -> Any:
    """Search a package's folder for a name as nnU-Net does."""
    folder = Path(nnunetv2.__path__[0]).joinpath(*package.split(".")[1:])
    return recursive_find_python_class(str(folder), name, package)


def _within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
