"""Reports that several files of tests read."""

import math
import re

import pytest
from report_page import read_page
from small_folders import phantom_provenance, write_data, write_model
from small_scores import MODALITIES, NASTY, REGIONS, long_table, provenance

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.drawing import Drawing
from nnunetv2_missmod.report.figures import draw_all
from nnunetv2_missmod.report.metric_names import METRICS
from nnunetv2_missmod.report.page import write_report

DRAW = "nnunetv2_missmod.report.page.draw_all"
LABEL = re.compile('aria-label="[^"]+"')
NOTHING = '<svg role="img" {} width="200" height="100"></svg>'
NO_FIGURES = {kind: [] for kind in ("heat", "curves", "dots", "gains")}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Two models and their long tables; the second is better."""
    root = tmp_path_factory.mktemp("cohort")
    truths = write_data(root)
    first = write_model(root / "dcseg", root, truths, trainer="DCSegTrainer", strength=0.5)
    second = write_model(root / "m3ae", root, truths, trainer="M3AETrainer", strength=0.3, seed=1)
    return root, {"DCSeg": first, "M3AE": second}


@pytest.fixture(scope="session")
def report(cohort):
    """With the figures of Dice alone, which are slow to draw."""
    root, _ = cohort
    drawn = []

    def draw(comparison, metric):
        drawn.append(draw_all(comparison, metric) if metric is METRICS[0] else empty(drawn[0], metric.title))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DRAW, draw)
        return write_report([root / "dcseg", root / "m3ae"], root / "report")


def empty(figures, title):
    """As many drawings of each kind, with the texts that Dice's have under another title, and nothing else."""
    return {
        kind: [Drawing(NOTHING.format(*LABEL.findall(d.svg)).replace("Dice", title), d.title) for d in of_kind]
        for kind, of_kind in figures.items()
    }


@pytest.fixture(scope="session")
def page(report):
    return read_page(report)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Long tables of two models on 8 cases, and their report without pictures; nothing differs in the core."""
    root = tmp_path_factory.mktemp("many")
    tables = {}
    for seed, name in enumerate(("DCSeg", "M3AE")):
        table = long_table(cases=8, seed=seed)
        table["dice"] = table["dice"].mask(table["region"] == "core", 0.5)
        table[["nsd", "sensitivity", "lesion_dice"]] = math.nan
        (root / name).mkdir()
        write_scores(root / name, table)
        known = provenance(MODALITIES, tuple(REGIONS), trainer=f"{name}Trainer", predictions=None)
        write_provenance(root / name, known)
        tables[name] = table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DRAW, lambda *_: NO_FIGURES)
        return tables, write_report([root / name for name in tables], root / "report")


@pytest.fixture
def no_figures(monkeypatch):
    """They are slow."""
    monkeypatch.setattr(DRAW, lambda *_: NO_FIGURES)


@pytest.fixture
def small(tmp_path, no_figures):
    """A model of two modalities, one case, and no figures."""
    truths = write_data(tmp_path, num_modalities=2, cases=("case",))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    return tmp_path


@pytest.fixture
def nasty(tmp_path, no_figures):
    """Modalities, a case, a model and a region with names that mean something elsewhere; no figures."""
    truths = write_data(tmp_path, num_modalities=3, cases=("a_b&c%",))
    table = write_model(tmp_path / "model", tmp_path, truths, modalities=("A", "B", "C"), save=False)
    names = dict(zip("ABC", NASTY, strict=True))
    table["subset"] = ["+".join(names[m] for m in s.split("+")) for s in table["subset"]]
    table["region"] = table["region"].replace({"core": NASTY[0]})
    write_scores(tmp_path / "model", table)
    regions = [NASTY[0] if name == "core" else name for name in REGIONS]
    write_provenance(tmp_path / "model", phantom_provenance(tmp_path, NASTY, regions, trainer="</script><!--"))
    return tmp_path
