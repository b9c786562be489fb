"""How Sphinx builds these pages: `make docs`. They are Markdown, and read as well without it."""

import django
from django.conf import settings

from greentor import __version__

# The reference is made from docstrings: the modules are imported.
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "greentor"],
    DATABASES={"default": {"ENGINE": "greentor.db.mysql", "NAME": "docs"}},
    USE_TZ=True,
)
django.setup()

project = "greentor"
version = release = __version__
copyright = "greentor contributors"
html_title = f"greentor {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]

# --- Markdown ---
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

# --- the reference ---
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False

# Every reference in a docstring to a public name must resolve. Names of others have no pages here, nor
# have our internal modules, and the types in signatures.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!greentor\b).*"),
    (r"py:class", r"greentor\..*"),
    (r"py:obj", r"greentor\.(bridge|glocal|holding|scope|waits|watchdog)(\.\w+)?"),
]

# --- HTML ---
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["greentor.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#15803d", "color-brand-content": "#15803d"},
    "dark_css_variables": {"color-brand-primary": "#4ade80", "color-brand-content": "#4ade80"},
}
pygments_style = "default"
pygments_dark_style = "github-dark"

# --- external links: `make linkcheck` ---
linkcheck_timeout = 15
linkcheck_retries = 2
linkcheck_ignore = [r"http://127\.0\.0\.1"]
