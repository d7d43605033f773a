"""The report: one HTML file that opens from disk without a network, and the same tables to paste elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nnunetv2_missmod.evaluation.complete_cases import UNEQUAL, UNEQUAL_MARK
from nnunetv2_missmod.evaluation.paired_tests import ALPHA, MIN_DIFFERING_PAIRS
from nnunetv2_missmod.files.whole_files import write_whole
from nnunetv2_missmod.report.case_volumes import read_cropped_case, with_predictions
from nnunetv2_missmod.report.exports import comparison_csv, to_csv, to_latex, to_markdown
from nnunetv2_missmod.report.figures import draw_all
from nnunetv2_missmod.report.inputs import Comparison, load_comparison
from nnunetv2_missmod.report.metric_names import Metric, metrics_with_values
from nnunetv2_missmod.report.models import Model
from nnunetv2_missmod.report.overlays import Overlay, draw_overlay, region_colours
from nnunetv2_missmod.report.shown_cases import cases_to_show
from nnunetv2_missmod.report.tables import TOO_FEW, Table, build_table, print_p
from nnunetv2_missmod.report.trust import build_trust
from nnunetv2_missmod.report.viewer import BUDGET, encode_case, viewer_of

HERE = Path(__file__).parent
TEMPLATES, ASSETS = HERE / "templates", HERE / "assets"
POLICIES = {
    "nnunet": "nnU-Net's: where truth and prediction are both empty nothing is scored; where one is, Dice and surface "
    "Dice are 0 and HD95 is undefined",
    "brats": "BraTS's: where truth and prediction are both empty Dice and surface Dice are 1 and HD95 is 0 mm; where "
    "one is, they are 0 and HD95 is 374 mm",
    "zero": "where truth and prediction are both empty Dice and surface Dice are 1; where one is, they are 0; HD95 is "
    "0 mm in either case",
    "one": "where truth and prediction are both empty Dice and surface Dice are 1 and HD95 is 0 mm; where one is, they "
    "are 0 and HD95 is 1 mm",
}
HD95_CONVENTIONS = {
    "surface": "the larger directed distance within which 95 % of a surface's area lies",
    "medpy": "medpy's: the 95th percentile of the edge voxels' distances, both directions pooled",
    "monai": "MONAI's: the larger 95th percentile of the edge voxels' distances in either direction",
}


def write_report(
    folders: Sequence[Path],
    out: Path,
    reference: str | None = None,
    groups: Mapping[str, Sequence[Path]] | None = None,
    cases: Sequence[str] = (),
) -> Path:
    """Write ``out/index.html`` and ``out/table.md``, ``.tex`` and ``.csv`` for one or several models' scores.

    Of several models the paired tests are also in ``out/comparison.csv``.

    Args:
        folders: what `missmod evaluate` wrote, one folder per model.
        out: the folder to write to; the report's own files in it are replaced.
        reference: name of the model that the others are tested against; None: every two models are.
        groups: further models of which there are several trainings: name -> a folder for each training.
        cases: names of those that overlays and viewer show, or how many; 3 if empty.

    Returns:
        The HTML file. Overlays and viewer need the predictions and images; without them the page says so.

    Raises:
        ValueError: names folder and file when one is missing or damaged, when the models do not belong together, or
            when a case was not scored.
        OSError: a file could not be written; one that was there is as it was.
    """
    comparison = load_comparison(folders, reference, groups)
    if out.exists() and not out.is_dir():
        raise ValueError(f"Expected a folder to write the report to, got the file {out}: give another one with -o.")
    shown = cases_to_show(comparison, cases)
    texts = _texts(comparison, shown)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(out / name, partial(Path.write_text, data=text, encoding="utf-8"))
    return out / "index.html"


def _texts(comparison: Comparison, shown: Mapping[str, str]) -> dict[str, str]:
    """The files of the report by their names."""
    tables = [build_table(comparison, metric) for metric in metrics_with_values(comparison.scores)]
    exports = {"table.md": to_markdown(tables), "table.tex": to_latex(tables), "table.csv": to_csv(tables)}
    if len(comparison.models) > 1:
        exports["comparison.csv"] = comparison_csv(tables)
    return {"index.html": _page(comparison, tables, shown), **exports}


def _page(comparison: Comparison, tables: Sequence[Table], shown: Mapping[str, str]) -> str:
    metrics = [table.metric for table in tables]
    overlays, viewer, notes = _pictures(comparison, shown)
    return render(
        "report.html",
        comparison=comparison,
        tables=tables,
        figures={metric.column: draw_all(comparison, metric) for metric in metrics},
        undefined={metric.column: undefined_share(comparison, metric) for metric in metrics},
        trust=build_trust(comparison),
        overlays=overlays,
        scored=comparison.scores["case"].nunique(),
        viewer=viewer,
        overlay_of={overlay.case.name: place for place, overlay in enumerate(overlays)},
        notes=[*comparison.notes, *notes],
        colours=dict(zip(comparison.regions, region_colours(len(comparison.regions)), strict=True)),
        facts=facts(comparison),
        too_few=TOO_FEW,
        unequal=UNEQUAL,
        unequal_mark=UNEQUAL_MARK,
        alpha=ALPHA,
        fewest_pairs=MIN_DIFFERING_PAIRS,
    )


def render(template: str, **content: Any) -> str:
    """Fill a template; everything but our own assets and figures is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["verbatim"] = Markup
    environment.filters["p_value"] = print_p
    environment.globals["asset"] = lambda name: Markup((ASSETS / name).read_text(encoding="utf-8"))
    return environment.get_template(template).render(content)


def undefined_share(comparison: Comparison, metric: Metric) -> float:
    """Share of the scores, in percent, that a metric leaves undefined."""
    return float(comparison.scores[metric.column].isna().mean() * 100)


def facts(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """What was measured on what: titles, each with a text per model."""
    columns = [_facts_of(comparison, name, model) for name, model in comparison.models.items()]
    return [(title, [column[title] for column in columns]) for title in columns[0]]


def _facts_of(comparison: Comparison, name: str, model: Model) -> dict[str, str]:
    known = model.provenance
    regions = known.region_labels
    sampled = " (a sample: all subsets would be too many)" if known.sampled else ""
    return {
        "Model": known.model,
        "Scores": _listed(training.folder.resolve().name for training in model.trainings),
        "Trained for": "each subset by itself" if model.of_subset else _listed(known.needs or ["any subset"]),
        "Dataset": known.dataset,
        "Plan": _listed([known.plans, known.configuration]),
        "Folds": _listed(known.folds),
        "Checkpoint": f"{known.checkpoint} (SHA-256 {_listed(weights[:12] for weights in known.weights)})",
        "Prediction": f"steps of {known.step_size} patches, {'mirroring' if known.mirroring else 'no mirroring'}",
        "Cases": str(comparison.tables[name]["case"].nunique()),
        "Modalities": _listed(comparison.modalities),
        "Subsets": f"{len(comparison.subsets)}{sampled}",
        "Regions": "; ".join(f"{region}: labels {_listed(regions[region])}" for region in comparison.regions),
        "Empty masks": POLICIES.get(known.empty_policy, known.empty_policy),
        "HD95": HD95_CONVENTIONS.get(known.hd95_convention, known.hd95_convention),
        "Tolerance of NSD": f"{known.nsd_tolerance_mm} mm",
        "Post-processing": "; ".join(f"{r}: dropped below {n} voxels" for r, n in known.min_voxels.items()) or "none",
        "Images": "/".join(Path(known.images).parts[-2:]),
        "Versions": _listed(f"{package} {version}" for package, version in known.versions.items()),
    }


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "–"


def _pictures(
    comparison: Comparison, shown: Mapping[str, str]
) -> tuple[list[Overlay], dict[str, Any] | None, list[str]]:
    """Overlays and viewer of the chosen cases, as far as the files are there, and notes on the rest.

    Args:
        comparison: what the models scored.
        shown: the chosen cases, and what each stands for.
    """
    models, notes = with_predictions(comparison)
    if not models:
        return [], None, [*notes, "Without predictions this report has no overlays and no viewer."]
    overlays, encoded = [], []
    for name, description in shown.items():  # one at a time: a case may need gigabytes
        case = read_cropped_case(comparison, name, description)
        if isinstance(case, str):
            notes.append(case)
            continue
        overlays.append(draw_overlay(comparison, case, models))
        encoded.append(encode_case(comparison, case, models, BUDGET // len(shown)))
    viewer = viewer_of(comparison, encoded)
    return overlays, viewer, [*notes, *(case for case in encoded if isinstance(case, str))]
