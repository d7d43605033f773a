"""A copy of each layout."""

import pytest
from small_sources import write_layout

from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A copy of each layout, to be read only: the folder that its archive unpacks to."""
    folder = tmp_path_factory.mktemp("layouts")
    return {layout: write_layout(folder / layout, layout) for layout in LAYOUTS if layout not in ("auto", "pattern")}
