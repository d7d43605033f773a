"""Reading the report back: a page's elements, tables by metric, and the texts in them."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt


class Page(HTMLParser):
    """All start tags with their attributes, and the rows of the score tables by metric."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.tables, self.text = [], {}, []
        self._metric, self._cell, self._skip = None, None, 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self._skip += tag in ("script", "style")
        if "data-metric" in attributes:
            self._metric = attributes["data-metric"]
        if tag == "table" and "scores" in attributes.get("class", ""):
            self.tables[self._metric] = []
        if tag == "table" and "facts" in attributes.get("class", ""):
            self._metric = "facts"
            self.tables["facts"] = []
        if tag == "tr":
            self.tables[self._metric].append([])
        if tag in ("td", "th"):
            self._cell = {"text": "", "mark": "", **attributes}
            self.tables[self._metric][-1].append(self._cell)
        if tag in ("strong", "u") and self._cell is not None:
            self._cell["mark"] = tag

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell["text"] += data
        if not self._skip:
            self.text.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, metric):
        return [[cell["text"].strip() for cell in row] for row in self.tables[metric]]


def read_page(file):
    return Page(file.read_text(encoding="utf-8"))


def read_markdown(text):
    """One Markdown table, as a renderer shows it that lets HTML through."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return Page(html.replace("<table>", '<table class="scores">'))
