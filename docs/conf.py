"""The website's settings for Sphinx. Nothing is run: the pages show the outputs that are stored in them. `make site` calls `docs/build.py`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lora_edu import __version__  # noqa: E402

project = "lora-edu"
author = "The lora-edu authors"
copyright = f"{author}. Code: Apache-2.0; text: CC BY 4.0"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "mathml", "docstrings"]
root_doc = "index"
language = "en"
# `suppress_warnings` stays empty: a page that Sphinx cannot make sense of is to be mended.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # of another host; the pages hold pictures, no live widgets
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "lora-edu"
html_math_renderer = "mathml"
html_static_path = [str(HERE / "static")]
html_css_files = ["course.css"]
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": True,
    "navbar_persistent": [],
}
