"""nnU-Net's augmentation, taken apart.

Relies on nnUNetTrainer.py: ``get_training_transforms`` gives a batchgeneratorsv2 ``ComposeTransforms``, in which what
changes intensities alone is an ``ImageOnlyTransform`` within a ``RandomTransform``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

Arguments = ParamSpec("Arguments")


def spatial_only(transforms: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Leave out of nnU-Net's augmentation what changes intensities."""

    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        return ComposeTransforms([t for t in transforms(*args, **kwargs).transforms if not _changes_intensity(t)])

    return make


def _changes_intensity(transform: Any) -> bool:
    return isinstance(transform, RandomTransform) and isinstance(transform.transform, ImageOnlyTransform)
