"""How every figure is drawn: in the page's own ink, as an inline SVG with a text for those who do not see it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK = "#010203"  # replaced by the page's text colour
MARKERS = "osD^vPX*<>"
MOST_VECTORS = 2500  # dots; more are drawn as pixels, which are smaller


class Drawing(NamedTuple):
    """An inline SVG with its alternative text."""

    svg: str
    title: str


@contextmanager
def empty_figure(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure of this size in inches, drawn in the page's ink and without a background."""
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    style: Any = {
        **ink,
        **{"svg.fonttype": "none", "font.size": 9, "axes.titlesize": 10, "axes.linewidth": 0.6, "lines.linewidth": 1.6},
        **{"axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none"},
        **{"xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.fontsize": 8.5, "axes.unicode_minus": True},
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's own font has them
        figure = Figure(figsize=size)
        yield figure, figure.subplots()


def drawn(figure: Figure, text: str, title: str, titles: Mapping[str, list[str]] | None = None) -> Drawing:
    """Save as SVG without prologue and metadata; ``text`` is what a screen reader says.

    ``titles`` are what the dots of a scatter say when they are pointed at, by its gid.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": text}):
        figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.04, dpi=150)
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)
    for gid, of_dots in (titles or {}).items():
        svg = _with_titles(svg, gid, of_dots)
    svg = re.sub(r'<g id="[\w.-]+"', "<g", svg).replace(INK, "currentColor")  # no id twice on a page
    return Drawing(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(text)}" ', 1), title)


def _with_titles(svg: str, gid: str, titles: list[str]) -> str:
    """Give each dot of a scatter its title; none where matplotlib has not drawn all of them."""
    before, start, rest = svg.partition(f'<g id="{gid}">')
    dots, end, after = rest.partition('<g id="')
    pieces = re.split(r"(<use [^>]*)/>", dots)
    if len(pieces) != 2 * len(titles) + 1:
        return svg
    for place, title in enumerate(titles):
        pieces[2 * place + 1] += f"><title>{escape(title)}</title></use>"
    return before + start + "".join(pieces) + end + after


def scatter_cases(
    ax: Axes, x: NDArray[Any], y: NDArray[Any], titles: Sequence[str], *, number: int, colour: Any, label: str = ""
) -> dict[str, list[str]]:
    """Scatter a dot per case and subset of a model, very many of them as pixels.

    Args:
        ax: to draw on.
        x: (N,).
        y: (N,).
        titles: what the dots say when they are pointed at.
        number: of the model in this figure.
        colour: the model's.
        label: the model's name, "" where something else has it.

    Returns:
        The titles as ``drawn`` takes them; none of pixels.
    """
    is_drawn_as_pixels = len(y) > MOST_VECTORS
    gid = f"cases-{number}"
    ax.scatter(x, y, s=13, color=colour, alpha=0.75, linewidths=0, rasterized=is_drawn_as_pixels,
               label=plain(label) or None, gid=gid)  # fmt: skip
    return {} if is_drawn_as_pixels else {gid: list(titles)}


def add_legend(ax: Axes, num_models: int, below: float) -> None:
    """Name the models under the axes, as a share of their height below them; one alone needs no name."""
    if num_models > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=2, frameon=False)


def model_colours(models: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
    """Give each model its colour."""
    return dict(zip(models, sns.color_palette("colorblind" if len(models) <= 10 else "husl", len(models)), strict=True))


def plain(name: str) -> str:
    """A name as matplotlib shows it unchanged: no mathematics, and never hidden from the legend."""
    return re.sub("^_", " _", name).replace("$", r"\$")
