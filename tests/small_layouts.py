"""What a layout says of its cases, and a dataset.json with other entries."""

import json

import numpy as np
import SimpleITK as sitk


def names(source):
    return [case.name for case in source.cases]


def values_in(source):
    files = [case.label for case in source.cases]
    return {int(value) for file in files for value in np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))}


def change_description(root, **changes):
    file = root / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
