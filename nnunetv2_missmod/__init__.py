"""nnU-Net v2 trainers whose networks accept any subset of the input modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_missmod.prediction.segmenter import Segmentation, Segmenter

__version__ = "0.2.0"
__all__ = ["Segmentation", "Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: the doors and `missmod --help` do not."""
    if name in ("Segmentation", "Segmenter"):
        from nnunetv2_missmod.prediction import segmenter  # noqa: PLC0415

        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
