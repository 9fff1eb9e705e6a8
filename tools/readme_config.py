"""Configuration of nbconvert for README.md from nbs/index.ipynb: `jupyter nbconvert --config tools/readme_config.py`
(see `make readme`)."""

import posixpath
import re

from bs4 import BeautifulSoup
from nbconvert.preprocessors import Preprocessor

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<value>.*?)\s*$\n?", re.MULTILINE)
LINK = re.compile(r"(?P<before>\]\(|\b(?:src|href)=\")(?P<target>[^)\s\"]+)")


def from_root(markdown):
    "Convert the relative links of a notebook in nbs/ to links from the project's root, and return the text."

    def convert(link):
        target = link["target"]
        outside = re.match(r"[a-z][a-z0-9+.-]*:|[#/]", target, re.IGNORECASE)
        return link["before"] + (target if outside else posixpath.normpath(posixpath.join("nbs", target)))

    return LINK.sub(convert, markdown)


def pipe_table(html):
    """Convert the table in the HTML to Markdown.

    A table with cells that span others stays HTML, without its style sheet."""
    soup = BeautifulSoup(html, "html.parser")
    table = soup.find("table")
    if table is None:
        return html
    if table.find(attrs={"colspan": True}) or table.find(attrs={"rowspan": True}):
        return re.sub(r"\n\s*", "\n", str(table)) + "\n"
    rows = [
        [cell.get_text(" ", strip=True).replace("|", r"\|") for cell in row.find_all(["th", "td"])]
        for row in table.find_all("tr")
    ]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


class Readable(Preprocessor):
    "Remove cells that nbdev hides, and convert outputs to Markdown."

    def preprocess(self, notebook, resources):
        cells = []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = from_root(cell.source)
            if cell.cell_type == "code":
                directives = {match["name"]: match["value"] for match in DIRECTIVE.finditer(cell.source)}
                if directives.keys() & {"hide", "default_exp"} or directives.get("include") == "false":
                    continue
                cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
                if directives.get("echo") == "false" or "hide_input" in directives or not cell.source:
                    cell.metadata["transient"] = {"remove_source": True}
                if directives.get("output") == "false":
                    cell.outputs = []
                for output in cell.outputs:
                    data = output.get("data", {})
                    if "text/markdown" in data:
                        data["text/markdown"] = from_root(data["text/markdown"])
                    elif "text/html" in data:
                        data["text/markdown"] = pipe_table(data["text/html"])
            cells.append(cell)
        notebook.cells = cells
        return notebook, resources


c = get_config()  # noqa: F821  (given by nbconvert)
c.NbConvertApp.export_format = "markdown"
c.MarkdownExporter.preprocessors = [Readable]
c.NbConvertBase.display_data_priority = ["image/png", "image/jpeg", "text/markdown", "text/html", "text/plain"]
c.NbConvertApp.output_files_dir = "nbs/images"
c.FilesWriter.build_directory = "."
