"""The files beside the page hold its numbers, and no name breaks them."""

import csv
import re

import pytest
from report_page import read_markdown, read_page
from small_scores import MODALITIES, NASTY, REGIONS, subset_names

from nnunetv2_missmod.report.page import write_report

pytestmark = pytest.mark.slow


def numbers(texts):
    return [text for text in texts if re.fullmatch(r"-?\d+\.\d+", text)]


def sections(markdown):
    """Markdown below each heading."""
    parts = re.split(r"^##+ (.*)\n", markdown, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows_with_numbers(tabular):
    rows = [re.findall(r"-?\d+\.\d+", line.replace("$-$", "-")) for line in tabular.splitlines() if r"\\" in line]
    return [row for row in rows if row]


@pytest.fixture(scope="module")
def page_numbers(page):
    """What the page shows of HD95: the subsets and their mean, mean and areas with bounds, contributions."""
    subsets = [numbers(row) for row in page.texts("hd95")[2:-2]]
    bounded = [
        [(cell["text"], *re.findall(r"-?\d+\.\d+", cell["interval"])) for cell in page.row(name, "hd95")]
        for name in ("mean", "area", "area / 3")
    ]
    gains = [[cell["text"] for cell in page.row(modality, "hd95", "contribution")] for modality in MODALITIES]
    assert {len(row) for row in (*subsets, *bounded, *gains)} == {6}
    assert {len(cell) for row in bounded for cell in row} == {3}
    return subsets, bounded, gains


def test_the_csv_holds_the_numbers_of_the_page(report, page_numbers):
    subsets, bounded, gains = page_numbers
    with open(report.parent / "table.csv", newline="", encoding="utf-8") as file:
        rows = {row["subset"]: row for row in csv.DictReader(file) if row["metric"] == "hd95"}
    values = {name: [value for key, value in row.items() if " / " in key] for name, row in rows.items()}
    assert [values[name] for name in (*subset_names(), "mean")] == subsets
    for name, expected in zip(("mean", "area", "area / 3"), bounded, strict=True):
        found = zip(values[name], values[f"{name}, 95 % low"], values[f"{name}, 95 % high"], strict=True)
        assert list(found) == expected
    assert [values[f"contribution of {modality}"] for modality in MODALITIES] == gains
    assert len(values) == 15 + 9 + 4 + 4 * 7
    assert [rows["FLAIR+T1c"][modality] for modality in MODALITIES] == ["1", "0", "1", "0"]


def test_the_csv_holds_every_gain_given_a_subset_and_the_shapley_values(report, page):
    with open(report.parent / "table.csv", newline="", encoding="utf-8") as file:
        rows = {row["subset"]: row for row in csv.DictReader(file) if row["metric"] == "dice"}
    for modality in MODALITIES:
        of_model = [value for key, value in rows[f"Shapley value of {modality}"].items() if " / " in key]
        assert of_model == [cell["text"] for cell in page.row(modality, "dice", "shapley")]
    given = rows["gain from T1c given FLAIR+T2"]
    assert [given[modality] for modality in MODALITIES] == ["1", "0", "0", "1"]
    of_subset = [row for row in page.tables["given"]["dice"] if row[0].get("title") == "FLAIR+T2"]
    cells = [[cell["text"] for cell in row[4 + 2 : -1 : 4]] for row in of_subset]  # T1c in each region
    for model, expected in zip(("DCSeg", "M3AE"), cells, strict=True):
        assert [given[f"{region} / {model}"] for region in REGIONS] == expected


def test_the_markdown_holds_the_numbers_of_the_page(report, page_numbers):
    parts = sections((report.parent / "table.md").read_text(encoding="utf-8"))
    tables = [read_markdown(part).texts(None)[1:] for name, part in parts.items() if name.startswith("HD95")]
    assert [numbers(row) for row in tables[0]] == page_numbers[0]
    pattern = r"(-?\d+\.\d+) \[(-?\d+\.\d+), (-?\d+\.\d+)\]"
    assert [[re.fullmatch(pattern, cell).groups() for cell in row[1:-1]] for row in tables[1]] == page_numbers[1]
    assert [numbers(row) for row in tables[2]] == page_numbers[2]
    assert len(tables) == 5
    page_ranks = read_page(report).texts("hd95", "rankings")[1:]
    assert tables[4] == page_ranks


def test_the_latex_holds_the_numbers_of_the_page(report, page, page_numbers):
    latex = (report.parent / "table.tex").read_text(encoding="utf-8")
    tables = [part for part in latex.split(r"\caption")[1:] if part.startswith("{HD95")]
    subsets, bounded, gains = map(rows_with_numbers, tables[:3])
    assert subsets == page_numbers[0]
    assert bounded == [[number for cell in row for number in cell] for row in page_numbers[1]]
    assert gains == page_numbers[2]
    assert len(tables) == 4
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == latex.count(r"\begin{tabular}") == 6 * 4 + 4
    (shapley,) = [part for part in latex.split(r"\caption") if re.match("{Dice .*: Shapley value", part)]
    expected = [[cell["text"] for cell in page.row(modality, "dice", "shapley")] for modality in MODALITIES]
    assert rows_with_numbers(shapley) == expected


def test_the_tests_are_also_beside_the_page(many):
    _, file = many
    with open(file.parent / "comparison.csv", newline="", encoding="utf-8") as csv_file:
        rows = [row for row in csv.DictReader(csv_file) if row["metric"] == "dice"]
    shown = read_page(file).texts("dice", "tests")[1:]
    assert [row["region"] for row in rows] == [row[1] for row in shown]
    for row, cells in zip(rows, shown, strict=True):
        assert [row["pairs"], row["median_difference"], row["favoured"] or "–"] == cells[2:5]
        assert [f"{float(row[p]):.3f}" if row[p] else "too few cases" for p in ("p", "p_holm")] == cells[5:]
    (markdown,) = [part for name, part in sections((file.parent / "table.md").read_text()).items()
                   if name == "Dice [%] ↑: comparison"]  # fmt: skip
    texts = [[text.replace("−", "-") for text in row] for row in shown]
    assert [[text.replace("−", "-") for text in row] for row in read_markdown(markdown).texts(None)[1:]] == texts


def test_names_cannot_break_latex(nasty):
    latex = (write_report([nasty / "model"], nasty / "report").parent / "table.tex").read_text()
    assert r"a\_b\&c\%" in latex
    assert r"\textless{}script\textgreater{}" in latex
    assert r"\$x\textasciicircum{}2\$ \textbackslash{}" in latex
    bodies = re.findall(r"\\toprule(.*?)\\bottomrule", latex, flags=re.DOTALL)
    rows = [line for line in bodies[0].splitlines() if line.endswith(r" \\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows[1:-1]} == {3 + 3 + 1}
    body = "".join(bodies)
    bare = re.sub(r"\\[&%$#_{}]|\$\\(bullet|circ)\$|\$-\$", "", body)
    assert not re.search(r"[%#$_^~<>|]", bare)
    assert bare.count("{") == bare.count("}")


def test_names_cannot_break_markdown(nasty):
    text = (write_report([nasty / "model"], nasty / "report").parent / "table.md").read_text()
    parts = sections(text)
    page, gains = read_markdown(parts["Dice [%] ↑"]), read_markdown(parts["Dice [%] ↑: contribution of each modality"])
    assert page.texts(None)[0][:3] == [name.strip() for name in NASTY]
    assert {len(row) for row in page.texts(None)} == {7}
    assert [row[0] for row in gains.texts(None)[1:]] == [name.strip() for name in NASTY]
    assert not {"script"} & {tag for tag, _ in (*page.tags, *gains.tags)}
