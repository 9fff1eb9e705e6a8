"""How Sphinx makes the site. Nothing is fetched: formulas become MathML, which browsers draw themselves."""

import html

from latex2mathml.converter import convert

project, author, copyright, release = "cgsaliency", "The cgsaliency authors", "2026 onwards, the cgsaliency authors", ""
extensions = ["myst_nb"]
root_doc, html_title, html_theme = "index", "cgsaliency", "sphinx_book_theme"
nb_execution_mode, nb_merge_streams, nb_render_image_options = "off", True, {}
myst_enable_extensions, myst_heading_anchors = ["dollarmath", "amsmath"], 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navigation_with_keys": False,
    "show_navbar_depth": 1,
    "navbar_persistent": [],  # no second search beside that of the sidebar
    "article_header_end": ["header_buttons.html"],
}
html_static_path, html_css_files, templates_path = ["static"], ["site.css"], ["templates"]
html_context = {"default_mode": "auto"}
html_show_sourcelink, html_copy_source = False, False
html_math_renderer = "mathml"


def formula(self, node, display):
    try:
        self.body.append(convert(node.astext(), display=display))
    # a formula that the converter does not know is still readable
    except Exception:
        self.body.append(f"<code>{html.escape(node.astext())}</code>")
    from docutils import nodes

    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: formula(self, node, "inline"), None),
        (lambda self, node: formula(self, node, "block"), None),
    )
