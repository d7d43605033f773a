"""The settings of the papers: the fragments of ``plans/``, each number with its source."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_missmod.host.doors import plans_folder
from nnunetv2_missmod.host.plan_block import overrides_for
from nnunetv2_missmod.planning.fitting import configuration_of
from nnunetv2_missmod.planning.fragments import load_fragment, load_sources, merge_fragment


@dataclass(frozen=True)
class Number:
    """One setting of a paper."""

    trainer: str
    name: str
    value: Any
    source: str


def paper_files(trainers: Sequence[str]) -> list[Path]:
    """Find the fragments of some trainers, which share a plan.

    Raises:
        ValueError: there is none.
    """
    files = [plans_folder() / f"{trainer}.json" for trainer in trainers]
    found = [file for file in files if file.is_file()]
    if not found:
        raise ValueError(
            f"Expected a trainer with the settings of a paper, got {trainers[-1]}, which has none. "
            "Plan it with --setting nnunet."
        )
    return found


def paper_numbers(file: Path) -> list[Number]:
    """List the numbers of a fragment with their sources."""
    fragment, sources, trainer = load_fragment(file), load_sources(file), file.stem
    block = fragment.get("missmod", {})
    parts = [overrides_for(trainer, block.get(part, {}), [trainer]) for part in ("trainer", "network")]
    own = {name: value for name, value in fragment.items() if name != "missmod"}
    numbers = {**own, **parts[0], **parts[1]}
    return [Number(trainer, name, value, sources.get(name, "")) for name, value in numbers.items()]


def merge_paper(
    plans: Mapping[str, Any], configuration: str, files: Sequence[Path], plans_name: str
) -> tuple[dict[str, Any], str]:
    """Merge the fragments of a paper into one configuration of a plan, its patch cut to the dataset's median shape.

    Returns:
        The plan, and a note where the patch had to be cut.

    Raises:
        ValueError: the configuration has another number of axes than the paper's patch.
    """
    merged, note = dict(plans), ""
    median = [int(n) for n in configuration_of(plans, configuration)["median_image_size_in_voxels"]]
    for file in files:
        fragment = copy.deepcopy(load_fragment(file))
        patch = fragment["patch_size"]
        if len(patch) != len(median):
            raise ValueError(
                f"Expected a configuration of {len(patch)} axes, got {configuration}: the patch of the paper is "
                f"{patch}. Name another with -c, or use --setting nnunet."
            )
        fragment["patch_size"] = [min(size, shape) for size, shape in zip(patch, median, strict=True)]
        merged = merge_fragment(merged, configuration, fragment, plans_name)
        if fragment["patch_size"] != patch:
            fitted = merged["configurations"][configuration]["patch_size"]
            note = (
                f"{configuration}: the paper's patch {patch} is larger than the median case {median}; beyond it there "
                f"would be padding alone. The patch is {fitted}."
            )
    return merged, f"{note} {_shared_batch(files)}".strip()


def _shared_batch(files: Sequence[Path]) -> str:
    batches = {file.stem: load_fragment(file)["batch_size"] for file in files}
    last = files[-1].stem
    others = [f"{name}'s would be {batch}" for name, batch in batches.items() if batch != batches[last]]
    return f"The batch of the plan that they share is {last}'s, {batches[last]}; {', '.join(others)}." if others else ""
