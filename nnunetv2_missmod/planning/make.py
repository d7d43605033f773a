"""`missmod plan`: a plan for a trainer, beside nnU-Net's own and on the same preprocessed data."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_missmod.files.dataset_json import channel_names
from nnunetv2_missmod.files.names import check_name
from nnunetv2_missmod.host.doors import plans_folder
from nnunetv2_missmod.host.plan_checks import open_plan
from nnunetv2_missmod.planning.dataset import PlannedDataset, find_stages, read_dataset
from nnunetv2_missmod.planning.dedicated import for_subset, plan_of_subset, read_subsets
from nnunetv2_missmod.planning.fitting import Configuration, MemoryOf, configuration_of, fit, planner_of
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment, merged, write_plans
from nnunetv2_missmod.planning.gpu_memory import GB, StepMemory, step_memory_on
from nnunetv2_missmod.planning.paper import merge_paper, paper_files, paper_numbers
from nnunetv2_missmod.planning.show import (
    PlanDescription,
    console_for_tables,
    describe,
    print_description,
    print_numbers,
)
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

SETTINGS = ("nnunet", "paper", "quick")
QUICK = "demo.json"  # of plans/
FITTED = ("patch_size", "batch_size", "architecture")


@dataclass(frozen=True)
class PlanRequest:
    """What `missmod plan` was asked: nnU-Net's flags where nnU-Net has them.

    Attributes:
        dataset: id or name, ``-d``.
        trainer: ``-tr``.
        plans: the plan to start from, ``-p``.
        configurations: ``-c``; all that the trainer can take if empty.
        memory_target: GB of the GPU, ``-gpu_memory_target``; None: the planner's own.
        setting: "nnunet", fitted to the target by nnU-Net's planner; "paper"; or "quick", a small network and a short
            schedule for whichever trainer.
        merge: a fragment of one's own, merged last.
        name: of the new plan, ``-overwrite_plans_name``.
        overwrite: whether a plan of this name may be replaced.
        device: auto, cuda (memory is measured) or cpu (estimated).
        subsets: ``--subset``, for a dedicated trainer: a plan for each.
    """

    dataset: str
    trainer: str
    plans: str = "nnUNetPlans"
    configurations: tuple[str, ...] = ()
    memory_target: float | None = None
    setting: str = "nnunet"
    merge: Path | None = None
    name: str | None = None
    overwrite: bool = False
    device: str = "auto"
    subsets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise ValueError(f"Expected --setting {', '.join(SETTINGS[:-1])} or {SETTINGS[-1]}, got {self.setting}.")
        if self.memory_target is not None and not self.memory_target > 0:
            raise ValueError(f"Expected -gpu_memory_target above 0 GB, got {self.memory_target:g}.")


def make_plan(request: PlanRequest) -> list[Path]:
    """Write a plan for a trainer and show it; nothing is preprocessed again.

    Returns:
        The plans file; of a dedicated trainer that of each subset, which share patch, batch and network.

    Raises:
        ValueError: something asked for is not there, or refused by trainer or network, or does not fit.
        NotImplementedError: the trainer cannot take a configuration that was named.
    """
    dataset, step_memory = read_dataset(request.dataset, request.plans), step_memory_on(request.device)
    stages = find_stages(request.trainer)
    subsets = read_subsets(request.subsets, stages[-1], dataset) or [""]
    name, *others = (name_of(request, stages, dataset, subset, len(subsets) > 1) for subset in subsets)
    plans = {**copy.deepcopy(dataset.plans), "plans_name": name}
    descriptions: list[PlanDescription] = []
    notes: list[str] = []
    for configuration in configurations_of(request, dataset, stages):
        try:
            of_largest = for_subset(subsets[0])
            changed, note = plan_configuration(
                request, replace(dataset, plans=plans), configuration, stages, of_largest
            )
            added = [describe(stage, replace(dataset, plans=changed), configuration, step_memory) for stage in stages]
        except NotImplementedError as error:
            if configuration in request.configurations:
                raise
            notes.append(f"Left out {configuration}: {error}")
            continue
        plans, descriptions = changed, descriptions + added
        notes += [note] * bool(note) + too_large(request, added)
    if not descriptions:
        raise ValueError(f"Expected a configuration that {request.trainer} can take, found none. {' '.join(notes)}")
    planned = list(dict.fromkeys(description.configuration for description in descriptions))
    for_others = [plan_of_subset(plans, planned, *other) for other in zip(subsets[1:], others, strict=True)]
    files = [write_plans(plan, dataset.folder.parent) for plan in (plans, *for_others)]
    print_result(request, descriptions, notes, stages, files)
    return files


def show_plan(request: PlanRequest) -> None:
    """Print what a trainer will do on a plan.

    Raises:
        ValueError: as ``make_plan``.
    """
    dataset = read_dataset(request.dataset, request.plans)
    stages = [stage for stage in find_stages(request.trainer) if stage.__name__ == request.trainer]
    for configuration in configurations_of(request, dataset, stages):
        try:
            print_description(describe(stages[0], dataset, configuration, step_memory_on(request.device)))
        except NotImplementedError as error:
            if configuration in request.configurations:
                raise
            print(f"Left out {configuration}: {error}")


def name_of(
    request: PlanRequest,
    stages: Sequence[type[MissingModalityTrainer]],
    dataset: PlannedDataset,
    subset: str,
    is_one_of_several: bool,
) -> str:
    """Name the new plan, of a dedicated trainer by its subset; a name of one's own stands for one plan as it is.

    Raises:
        ValueError: it is the original's, another's that is not to be replaced, or no file's.
    """
    trainer = stages[-1].__name__
    of_setting = {"nnunet": "" if subset else trainer, "paper": f"{trainer}_paper", "quick": "quick"}
    name = request.name or "_".join(filter(None, (request.plans, of_setting[request.setting], subset)))
    name = f"{name}_{subset}" if request.name and is_one_of_several else name
    check_name(name, "the new plan")
    if name == request.plans:
        raise ValueError(
            f"Expected another name than the original's for the new plan, got {name}, which stays as it is."
        )
    file = dataset.folder / f"{name}.json"
    if file.exists() and not request.overwrite:
        raise ValueError(
            f"Expected a name for a new plan, got {name}, and {file} exists. Replace it with --overwrite "
            "(models trained on it keep a copy), or give another with -overwrite_plans_name."
        )
    return name


def configurations_of(
    request: PlanRequest, dataset: PlannedDataset, stages: Sequence[type[MissingModalityTrainer]]
) -> list[str]:
    """List the configurations to plan: those named, or all whose axes are those of the paper, if it is asked for.

    Raises:
        ValueError: the plan does not have one of them, or it holds something wrong.
    """
    known = PlansManager(dataset.plans).available_configurations
    unknown = [name for name in request.configurations if name not in known]
    if unknown:
        raise ValueError(f"Expected configurations of {request.plans}, got {unknown}. It has {', '.join(known)}.")
    for name in request.configurations or known:
        open_plan(dataset.plans, name, str(dataset.folder / f"{request.plans}.json"), len(channel_names(dataset.json)))
    if request.configurations or request.setting != "paper":
        return list(request.configurations or known)
    axes = len(load_fragment(papers_of(stages)[0])["patch_size"])
    return [name for name in known if len(configuration_of(dataset.plans, name)["patch_size"]) == axes] or list(known)


def papers_of(stages: Sequence[type[MissingModalityTrainer]]) -> list[Path]:
    """Find the fragments of the stages' papers."""
    return paper_files([stage.__name__ for stage in stages])


def plan_configuration(
    request: PlanRequest,
    dataset: PlannedDataset,
    name: str,
    stages: Sequence[type[MissingModalityTrainer]],
    of_subset: Mapping[str, Any],
) -> tuple[dict[str, Any], str]:
    """Change one configuration of a plan as the request's setting says, the user's fragment merged last.

    ``of_subset`` is a fragment that names a dedicated trainer's subset.

    Returns:
        The plan, and a note on it, empty if there is none.
    """
    own = load_fragment(request.merge) if request.merge else {}
    own = merged(own, of_subset)
    plans_name, note = dataset.plans["plans_name"], ""
    merge_fragment(dataset.plans, name, own, plans_name)  # what it cannot set is an error before minutes of fitting
    if request.setting == "paper":
        files = papers_of(stages)
        plans, note = merge_paper(dataset.plans, name, files, plans_name)
    elif request.setting == "quick":
        plans = merge_fragment(dataset.plans, name, load_fragment(plans_folder() / QUICK), plans_name)
        note = f"The plan is small and its training short, to see all of it at work: no scores to compare ({QUICK})."
    else:
        settings = {key: value for key, value in own.items() if key not in FITTED}
        memory_of = memory_finder(dataset, name, stages, settings, step_memory_on(request.device))
        target = request.memory_target or float(planner_of(dataset).UNet_vram_target_GB)
        with console_for_tables().status(f"Fitting {name} to {target:g} GB"):
            plans = with_configuration(dataset.plans, name, fit(dataset, name, memory_of, target * GB))
    return merge_fragment(plans, name, own, plans_name), note


def memory_finder(
    dataset: PlannedDataset,
    name: str,
    stages: Sequence[type[MissingModalityTrainer]],
    settings: Mapping[str, Any],
    step_memory: StepMemory,
) -> MemoryOf:
    """Give a function that finds the memory of a configuration: of the stage that needs most, each asked for once."""
    known: dict[str, float] = {}

    def memory_of(configuration: Configuration) -> float:
        key = json.dumps(configuration)
        if key not in known:
            plans = with_configuration(dataset.plans, name, configuration)
            plans = merge_fragment(plans, name, settings, plans["plans_name"])
            known[key] = max(step_memory(stage, plans, name, dataset.json) for stage in stages)
        return known[key]

    return memory_of


def with_configuration(plans: Mapping[str, Any], name: str, configuration: Configuration) -> dict[str, Any]:
    """Copy a plan with one configuration replaced."""
    return {**plans, "configurations": {**plans["configurations"], name: configuration}}


def too_large(request: PlanRequest, descriptions: Sequence[PlanDescription]) -> list[str]:
    """Say by how much settings that are not fitted exceed a memory target that was given."""
    target = request.memory_target
    return [
        f"{description.title}: needs {description.memory / GB:.1f} GB, {description.memory / GB - target:.1f} GB more "
        f"than the {target:g} GB asked for. The settings are kept as they are."
        for description in descriptions
        if target is not None and description.memory > target * GB
    ]


def print_result(
    request: PlanRequest,
    descriptions: Sequence[PlanDescription],
    notes: Sequence[str],
    stages: Sequence[type[MissingModalityTrainer]],
    files: Sequence[Path],
) -> None:
    """Print what was planned, where each number of a paper is from, and how to train on it."""
    for description in descriptions:
        print_description(description)
    if request.setting == "paper":
        print_numbers([number for paper in papers_of(stages) for number in paper_numbers(paper)])
    for note in notes:
        print(note)
    configurations = list(dict.fromkeys(description.configuration for description in descriptions))
    written = ", ".join(str(file) for file in files)
    print(f"Written: {written}. Nothing needs to be preprocessed again. Train on it, for instance:")
    preferred = "3d_fullres" if "3d_fullres" in configurations else configurations[0]
    for file, stage in product(files, stages):
        print(f"  nnUNetv2_train {request.dataset} {preferred} 0 -tr {stage.__name__} -p {file.stem}")
