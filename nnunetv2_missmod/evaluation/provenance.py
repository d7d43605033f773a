"""``provenance.json``: whose scores a folder holds and how they came about."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2_missmod.files.entries import Kind, Place, is_finite
from nnunetv2_missmod.files.whole_files import write_whole

PROVENANCE = "provenance.json"
MEND = "Run missmod evaluate again into an empty folder."


@dataclass(frozen=True)
class Provenance:
    """Whose scores they are and how they came about; what is in ``provenance.json``."""

    model: str  # such as DCSegTrainer__nnUNetPlans__3d_fullres
    dataset: str
    trainer: str
    plans: str
    configuration: str
    folds: list[int | str]
    checkpoint: str
    weights: list[str]  # SHA-256 of each fold's checkpoint
    step_size: float  # of the sliding window, as a fraction of the patch
    mirroring: bool  # test-time augmentation
    modalities: list[str]
    subsets: dict[str, list[str]]  # name -> modalities, in the order of modalities.all_subsets
    sampled: bool  # the subsets are a sample of all that there are
    regions: list[str]
    region_labels: dict[str, list[int]]
    empty_policy: str
    nsd_tolerance_mm: float
    min_voxels: dict[str, int]
    images: str
    labels: str
    predictions: str | None  # folder of the masks, relative to that of the scores; None: not kept
    file_ending: str
    versions: dict[str, str]
    hd95_convention: str = "surface"  # the only one before there was this entry
    held_out: bool | None = None  # each case was predicted by the fold that held it out; None: an earlier version
    needs: list[str] | None = None  # modalities that a dedicated model looks at, no others; None: any subset will do


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write ``provenance.json``."""
    text = json.dumps(asdict(provenance), indent=2) + "\n"
    write_whole(folder / PROVENANCE, lambda file: file.write_text(text, encoding="utf-8"))


def read_provenance(file: Path) -> Provenance:
    """Read ``provenance.json`` back; entries that a later version adds are left out, those of earlier ones completed.

    Raises:
        ValueError: names the file, and the entry that is missing or of another type.
    """
    hints = typing.get_type_hints(Provenance)
    since = {field.name: field.default for field in fields(Provenance) if field.default is not MISSING}
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
        found = since | found
        lacking = [name for name in hints if name not in found]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a JSON object with {', '.join(hints)}, but {error}. {MEND}") from error
    place = Place(str(file), mend=MEND)
    for name, hint in hints.items():
        place.check(name, found[name], Kind(partial(fits, hint=hint), f"of type {_words(hint)}"))
    check_members(found, place)
    return Provenance(**{name: found[name] for name in hints})


def check_members(found: dict[str, Any], place: Place) -> None:
    """Check that subsets are of the modalities, and that every region has its labels.

    Raises:
        ValueError: names the file and the entry.
    """
    known = set(found["modalities"])
    if found["needs"] is not None and not known.issuperset(found["needs"]):
        place.refuse("needs", "some of modalities", found["needs"])
    for subset, members in found["subsets"].items():
        if not members or not known.issuperset(members):
            place.refuse(f"subsets.{subset}", "some of modalities", members)
    for region in found["regions"]:
        if not found["region_labels"].get(region):
            place.refuse(f"region_labels.{region}", "the region's labels", found["region_labels"])


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value that was read from JSON is of a type such as ``dict[str, list[int]]``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, arguments[1]) for each in value.values())
    if hint in (int, float):
        return is_finite(value) and (hint is float or isinstance(value, int))
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    return str(hint) if typing.get_origin(hint) else hint.__name__
