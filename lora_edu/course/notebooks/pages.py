"""A chapter as a web page, for readers without Jupyter: what JupyterLab folds is folded here too.

nbconvert by itself opens every folded cell: the source of predictions and reveals would stand before what it is about.
"""

import re
from pathlib import Path

from lora_edu.course.notebooks.files import read

PAGES = Path("runs/pages")
_FOLDED = """\
{%- extends 'index.html.j2' -%}
{% block input_group %}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details class="folded"><summary>code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{% endblock input_group %}
{% block html_head %}{{ super() }}
<style>.folded summary { color: var(--jp-ui-font-color2); cursor: pointer; font: 12px sans-serif; margin-left: 80px }</style>
{% endblock html_head %}
"""


def render(page: Path, target: Path = PAGES) -> Path:
    """Write the notebook at `page`, with the outputs that are stored in it, as HTML into `target`; nothing is run.

    Folded cells become `<details>`, pictures are put in, links to other chapters lead to their HTML. Returns the new file.

    Raises:
        NotebookError: `page` cannot be read as a notebook.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=_FOLDED, embed_images=True)
    body, _ = exporter.from_notebook_node(read(page), {"metadata": {"path": str(page.parent), "name": page.stem}})
    file = target / ("solutions" if page.parent.name == "solutions" else "") / f"{page.stem}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(re.sub(r'(href="(?!\w+:)[^"#]*)\.ipynb(?=["#])', r"\1.html", body), "utf-8")
    return file
