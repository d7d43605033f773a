"""One self-contained HTML page, and the same tables as Markdown, LaTeX and CSV, from what `missmod evaluate` wrote."""
