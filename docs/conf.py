"""The documentation as a site: `sphinx-build -W --keep-going -n docs build/site`.

Nothing is loaded from elsewhere, neither when it is built nor when it is read. Two variables of the environment add
links: FASTERAA_SOURCE_URL (`https://…/blob/main`) to files in the repository, and FASTERAA_INTERSPHINX=1 to the
documentation of PyTorch, torchvision, NumPy and Python, whose lists of names are then loaded.
"""

import os
import sys
from pathlib import Path

from sphinx.ext.napoleon import GoogleDocstring

import fasteraa_transforms

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "fasteraa_transforms"
release = version = fasteraa_transforms.__version__
copyright = "the fasteraa_transforms developers"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "sphinx_copybutton", "mathml", "pages"]
exclude_patterns = ["_extensions", "generated", "search.md"]  # of which searching.md makes a page
source_url = os.environ.get("FASTERAA_SOURCE_URL", "")

myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebook is shown as it was saved

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_custom_sections = [("Source", "params_style")]

# The docstring of an attribute is a sentence, in which a colon does not end a type.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._consume_to_end())

# Names of other projects, a type variable, and a control.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|torchvision|tv_tensors|numpy|PIL|pydantic|nn|collections|pathlib|os)\..*"),
    ("py:class", r".*\.Images"),
    ("py:obj", "random"),
]

if os.environ.get("FASTERAA_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "torchvision": ("https://docs.pytorch.org/vision/stable", None),
    }

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
