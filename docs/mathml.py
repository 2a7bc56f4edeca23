"""Formulas as MathML, which every browser of today draws by itself: no script and no font to fetch. A Sphinx extension."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def _html(translator: Any, latex: str, display: str) -> None:
    translator.body.append(convert(latex.strip(), display=display))
    raise nodes.SkipNode


def _inline(translator: Any, node: nodes.math) -> None:
    _html(translator, node.astext(), "inline")


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="formula"))
    translator.body.append(convert(node.astext().strip(), display="block") + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
