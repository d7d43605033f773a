"""The report in a real browser: headless Chromium with WebGL in software, from disk and without a network.

A probe is appended to a copy of the page; it works the switches as a reader does and writes what it finds into the
page, which Chromium then dumps. Where no browser is installed these tests are skipped.
"""

import csv
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report_page import Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
         "--disable-background-networking", "--enable-logging=stderr", "--virtual-time-budget=60000"]  # fmt: skip
PROBE = """
<script>
(async () => {
  const found = {};
  const get = (id) => document.getElementById(id);
  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const choose = (id, value) => {
    get(id)[get(id).type === "checkbox" ? "checked" : "value"] = value;
    for (const kind of ["input", "change"]) get(id).dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const cells = () => [...document.querySelectorAll("table.scores td.score")]
    .filter((cell) => cell.checkVisibility()).map((cell) => cell.innerText);
  const rowsOf = (section) => [...document.querySelectorAll(`#${section} tbody tr`)]
    .filter((row) => row.checkVisibility()).map((row) => [...row.cells].map((cell) => cell.innerText));
  const bars = () => [...document.querySelectorAll("#contribution figure svg")]
    .filter((svg) => svg.checkVisibility())
    .map((svg) => [svg.getAttribute("aria-label"), svg.getBoundingClientRect().width]);
  const sections = () => ({
    contribution: rowsOf("contribution .contribution"), tests: rowsOf("comparison .tests"), bars: bars(),
  });
  const frame = async () => {
    const before = get("niivue").dataset.shown;
    for (let i = 0; i < 100 && !get("niivue").dataset.shown; i++) await wait(100);
    await wait(1000);
    const gl = get("niivue").niivue.gl;
    get("niivue").niivue.drawScene();
    const pixels = new Uint8Array(gl.drawingBufferWidth * gl.drawingBufferHeight * 4);
    gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const counts = { width: gl.drawingBufferWidth, height: gl.drawingBufferHeight, bright: 0, coloured: 0 };
    for (let i = 0; i < pixels.length; i += 4) {
      const [low, high] = [Math.min(...pixels.slice(i, i + 3)), Math.max(...pixels.slice(i, i + 3))];
      counts.bright += high > 40;
      counts.coloured += high - low > 60;
    }
    return { ...counts, volumes: JSON.parse(get("niivue").dataset.shown), status: get("viewer-status").innerText };
  };
  try {
    found.dice = cells();
    found.diceSections = sections();
    const interval = document.querySelector("tfoot .interval");
    found.small = ["fontSize", "display"].map((name) => getComputedStyle(interval)[name]);
    found.wide = document.documentElement.scrollWidth - window.innerWidth;
    const columnOf = () => [...document.querySelectorAll("#table [data-metric=dice] tbody tr")]
      .map((row) => row.querySelector("td.score").textContent);
    const head = document.querySelector("#table [data-metric=dice] th.model");
    found.unsorted = columnOf();
    head.click();
    found.descending = columnOf();
    head.click();
    found.ascending = [columnOf(), head.getAttribute("aria-sort")];
    const listed = () => rowsOf("caselist").map((row) => row[0]);
    found.cases = listed();
    choose("case-search", "002");
    found.searched = listed();
    choose("case-search", "");
    document.querySelector("#caselist tbody a").click();
    found.linked = get("overlay-case").selectedOptions[0].dataset.name;
    choose("overlay-case", "0");
    found.saved = [];
    URL.createObjectURL = (blob) => (found.saved.push(blob.text()), "#");
    const follow = HTMLAnchorElement.prototype.click;
    HTMLAnchorElement.prototype.click = () => {};
    document.querySelector("#curves .download").click();
    document.querySelector("#contribution .download").click();
    HTMLAnchorElement.prototype.click = follow;
    found.saved = await Promise.all(found.saved);
    get("theme").click();
    get("theme").click();
    found.dark = getComputedStyle(document.body).backgroundColor;
    get("theme").click();
    choose("metric", "hd95");
    found.hash = location.hash;
    found.hd95 = cells();
    found.hd95Sections = sections();
    const overlays = () => [...document.querySelectorAll(".overlays")].filter((part) => part.checkVisibility());
    found.overlays = [overlays().length, overlays()[0].dataset.case, overlays()[0].dataset.model];
    choose("overlay-case", "1");
    choose("overlay-model", "1");
    found.chosen = [overlays().length, overlays()[0].dataset.case, overlays()[0].dataset.model];
    choose("overlay-channel", "1");
    found.pictures = [...overlays()[0].querySelectorAll("use.picture")]
      .map((use) => [use.closest("figure").querySelector("b").innerText, use.getAttribute("href")]);
    found.sizes = [...overlays()[0].querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width);
    found.all = await frame();
    choose("viewer-subset", "FLAIR");
    choose("viewer-image", "1");
    found.other = await frame();
    choose("viewer-truth", false);
    choose("viewer-prediction", false);
    found.bare = await frame();
    choose("viewer-truth", true);
    choose("viewer-prediction", true);
    await frame();
  } catch (error) {
    found.error = String(error.stack);
  }
  for (const part of document.querySelectorAll("header, main > section:not(#viewer)")) part.hidden = true;
  const box = get("niivue").getBoundingClientRect();
  found.box = [box.left, box.top, box.right, box.bottom];
  const note = document.createElement("script");
  note.type = "application/json";
  note.id = "found";
  note.textContent = JSON.stringify(found).replaceAll("<", "\\\\u003c");
  document.body.append(note);
})();
</script>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian: apt-get install chromium)"),
    pytest.mark.xdist_group("browser"),
]


def open_page(html, folder, width, height):
    """Open a page with the probe: what the probe found, the console's lines, and a screenshot."""
    file, picture = folder / "probed.html", folder / "page.png"
    file.write_text(html.removesuffix("</body>\n</html>") + PROBE, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
    command += [f"--screenshot={picture}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env={"HOME": str(folder)})
    found = re.search(r'<script type="application/json" id="found">(.*?)</script>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-3000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found.group(1)), console, picture


@pytest.fixture(scope="module")
def desktop(report, tmp_path_factory):
    """The report on two models, and what the probe finds in it on a wide screen."""
    html = report.read_text(encoding="utf-8")
    return html, *open_page(html, tmp_path_factory.mktemp("desktop"), 1280, 900)


def scores_in(html, metric):
    """What a cell shows: the number, and its interval on a line of its own."""
    cells = [cell for row in Page(html).tables["scores"][metric] for cell in row]
    return [
        "\n".join(filter(None, (cell["text"], cell["interval"])))
        for cell in cells
        if cell.get("class", "").startswith("score")
    ]


def test_the_probe_ran_to_its_end_and_the_console_is_empty(desktop):
    _, found, console, _ = desktop
    assert "error" not in found
    assert console == []


def test_the_table_that_shows_is_dice_and_after_the_switch_hd95(desktop):
    html, found, *_ = desktop
    assert found["dice"] == scores_in(html, "dice")
    assert found["hd95"] == scores_in(html, "hd95")
    assert found["hd95"] != found["dice"]


@pytest.mark.parametrize("metric", ["dice", "hd95"])
def test_contributions_and_tests_show_for_the_chosen_metric(desktop, metric):
    html, found, *_ = desktop
    page, shown = Page(html), found[f"{metric}Sections"]
    assert shown["contribution"] == page.texts(metric, "contribution")[2:]
    assert shown["tests"] == page.texts(metric, "tests")[1:]
    assert [row[0] for row in shown["contribution"]] == ["FLAIR", "T1", "T1c", "T2"]
    title = {"dice": "Dice", "hd95": "HD95"}[metric]
    assert [text.split(" from ")[0] for text, _ in shown["bars"]] == [
        f"Mean gain in {title} of {region}" for region in ("whole", "core", "enhancing")
    ]
    assert min(width for _, width in shown["bars"]) > 100


def test_the_intervals_are_in_small_print_on_a_line_of_their_own(desktop):
    _, found, *_ = desktop
    size, display = found["small"]
    assert float(size.removesuffix("px")) < 14
    assert display == "block"
    assert sum("\n[" in cell for cell in found["dice"]) == 3 * 6


def test_overlays_of_one_case_and_model_show_at_a_time(desktop):
    _, found, *_ = desktop
    assert found["overlays"] == [1, "0", "0"]
    assert found["chosen"] == [1, "1", "1"]
    assert min(found["sizes"]) > 60


def test_the_chosen_channel_is_shown_only_where_it_is_present(desktop):
    _, found, *_ = desktop
    modalities = ["FLAIR", "T1", "T1c", "T2"]
    assert len(found["pictures"]) == 15 * 3
    for subset, link in found["pictures"]:
        shown = modalities[int(link.rsplit("-", 1)[1])]
        assert shown == ("T1" if "T1" in subset.split("+") else subset.split("+")[0])


def test_the_viewer_plots_image_truth_and_prediction(desktop):
    _, found, *_ = desktop
    everything = found["all"]
    assert everything["volumes"] == ["case0-image0.nii.gz", "case0-mask14.nii.gz", "case0-truth.nii.gz"]
    assert everything["status"] == ""
    pixels = everything["width"] * everything["height"]
    assert everything["bright"] > 0.1 * pixels
    assert everything["coloured"] > 0.01 * pixels


def test_the_viewer_switches_image_subset_and_layers(desktop):
    _, found, *_ = desktop
    assert found["other"]["volumes"] == ["case0-image1.nii.gz", "case0-mask0.nii.gz", "case0-truth.nii.gz"]
    assert found["other"]["coloured"] > 0
    assert found["bare"]["coloured"] == 0
    assert found["bare"]["bright"] > 0.1 * found["bare"]["width"] * found["bare"]["height"]


def test_what_is_chosen_is_in_the_address(desktop):
    _, found, *_ = desktop
    assert found["hash"] == "#metric=hd95&case=case_002&viewer=case_002&model=DCSeg&subset=FLAIR%2BT1%2BT1c%2BT2"


def test_a_click_on_a_columns_head_sorts_the_rows(desktop):
    _, found, *_ = desktop
    ordered = sorted(found["unsorted"], key=float)
    assert found["unsorted"] not in (ordered, ordered[::-1])
    assert found["descending"] == ordered[::-1]
    assert found["ascending"] == [ordered, "ascending"]


def test_the_case_list_is_searched_and_leads_to_the_overlay(desktop):
    _, found, *_ = desktop
    assert sorted(found["cases"]) == ["case_001", "case_002", "case_003"]
    assert found["searched"] == ["case_002"]
    assert found["linked"] == found["cases"][0]


def test_figures_and_tables_can_be_saved(desktop):
    html, found, *_ = desktop
    svg, csv_text = found["saved"]
    ElementTree.fromstring(svg)
    lines = list(csv.reader(csv_text.splitlines()))
    assert [line[0] for line in lines[2:]] == ["FLAIR", "T1", "T1c", "T2"]
    assert [line[1:] for line in lines[2:]] == [row[1:] for row in Page(html).texts("dice", "contribution")[2:]]


def test_the_page_can_be_made_dark(desktop):
    _, found, *_ = desktop
    assert found["dark"] == "rgb(21, 24, 27)"


def test_the_canvas_is_on_the_screen(desktop):
    _, found, _, picture = desktop
    left, top, right, bottom = map(round, found["box"])
    with Image.open(picture) as screenshot:
        pixels = np.asarray(screenshot.convert("RGB")).astype(int)[max(top, 0) : bottom, left:right]
    assert pixels.std() > 10
    assert ((pixels.max(2) - pixels.min(2)) > 60).mean() > 0.01


def test_at_a_phones_width_nothing_but_the_tables_scrolls_sideways(report, tmp_path):
    long_names = {"case_002": "case_002" + "_and_more" * 9, "Dataset501_Phantom": "Dataset501" + "Phantom" * 9}
    html = report.read_text(encoding="utf-8")
    for name, long_name in long_names.items():
        html = html.replace(name, long_name)
    found, console, _ = open_page(html, tmp_path, 390, 800)
    assert "error" not in found
    assert console == []
    assert found["wide"] <= 0
    assert found["dice"] == scores_in(html, "dice")
    assert found["all"]["coloured"] > 0
