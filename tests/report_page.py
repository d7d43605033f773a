"""Reading the report back: a page's elements, tables by metric, and the texts in them."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

KINDS = (
    "scores",
    "contribution",
    "given",
    "shapley",
    "coverage",
    "agreement",
    "tests",
    "rankings",
    "caselist",
    "facts",
)


class Page(HTMLParser):
    """All start tags with their attributes, and the rows of the tables by kind and metric.

    A row is a list of cells: their attributes, ``text``, ``interval`` (the small print) and ``mark`` (strong or u).
    """

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], []
        self.tables = {kind: {} for kind in KINDS}
        self._metric, self._rows, self._cell, self._part, self._skip = None, [], None, "text", 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self._skip += tag in ("script", "style")
        self._metric = attributes.get("data-metric", self._metric)
        if tag == "table":
            (kind,) = [kind for kind in KINDS if kind in attributes["class"].split()]
            self._rows = self.tables[kind].setdefault(self._metric, [])  # a table of each model, one after the other
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._cell = {"text": "", "interval": "", "mark": "", **attributes}
            self._rows[-1].append(self._cell)
        if tag in ("strong", "u") and self._cell is not None:
            self._cell["mark"] = tag
        if tag == "small":
            self._part = "interval"

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")
        if tag in ("td", "th"):
            self._cell = None
        if tag == "small":
            self._part = "text"

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[self._part] += data
        if not self._skip:
            self.text.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, metric, kind="scores"):
        return [[cell["text"].strip() for cell in row] for row in self.tables[kind][metric]]

    def row(self, name, metric, kind="scores"):
        """The cells right of the name of a row; that of a subset is the title of its dots."""
        rows = [row for row in self.tables[kind][metric] if name in (row[0]["text"].strip(), row[0].get("title"))]
        (cells,) = filter(None, ([c for c in row if c.get("class", "").startswith("score")] for row in rows))
        return cells


def read_page(file):
    return Page(file.read_text(encoding="utf-8"))


def read_markdown(text):
    """One Markdown table, as a renderer shows it that lets HTML through."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return Page(html.replace("<table>", '<table class="scores">'))
