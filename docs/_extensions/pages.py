"""The Markdown of the repository as pages: what differs between a page there and the same page on the site.

- A comment `<!-- generated: NAME -->` is replaced by what the function NAME of `generated.py` or `measured.py` returns.
- The pages in `INCLUDED` are files from outside of docs/.
- A link out of docs/ leads to the page that such a file is here. Where there is none, to the file under `source_url`,
  or, where that is not set, to a copy of the file; a folder is named without a link.
- A reference from one docstring to another is found under the public name of what it is to.
"""

import json
import re
from functools import partial
from pathlib import Path
from posixpath import dirname, join, normpath

import generated
import measured
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

ROOT = Path(__file__).parents[2]

INCLUDED = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "kernels": "cuda/README.md",
    "searches": "search/README.md",
    "searching": "docs/search.md",  # search.html is where Sphinx puts the search in the site
    "citation": "README.md#Cite",
    "measured": "README.md#What was measured",
}
"""Pages, and the file, or the section of a file, that each shows."""

CHARTS = {"benchmarks": "speed", "measured": "regret"}
"""Pages that come from elsewhere, and the function whose charts they get on the site."""

_PAGES = {
    "README.md": "/index.md",
    "README.md#cite": "/citation.md",
    "README.md#what-was-measured": "/measured.md",
} | {file: f"/{name}.md" for name, file in INCLUDED.items()}
_GENERATED = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`]+`|\[([^\[\]]*)\]\(([^()\s]+)\)", re.MULTILINE | re.DOTALL)
_PUBLIC = (
    "fasteraa_transforms",
    "fasteraa_transforms.search",
    "fasteraa_transforms.search.data.folders",
    "fasteraa_transforms.search.data.images",
    "fasteraa_transforms.search.data.masks",
    "fasteraa_transforms.search.data.samples",
    "fasteraa_transforms.search.data.sizing",
    "fasteraa_transforms.search.data.table",
    "fasteraa_transforms.search.evaluation.controls",
    "fasteraa_transforms.pipeline.image_files",
    "fasteraa_transforms.functional",
    "fasteraa_transforms.operations",
    "fasteraa_transforms.search.networks.fit",
    "fasteraa_transforms.search.runtime.claim",
)

_logger = logging.getLogger(__name__)


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    text, source = content[0], app.env.doc2path(docname, base=False).as_posix()
    leading = partial(_with_links, source=f"docs/{source}", source_url=app.config.source_url)
    if source.endswith(".ipynb"):
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = leading("".join(cell["source"]))
        content[0] = json.dumps(notebook)
    elif docname in INCLUDED:
        file, _, heading = INCLUDED[docname].partition("#")
        text = (ROOT / file).read_text(encoding="utf-8")
        if heading:
            text = "# " + heading + text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        app.env.note_dependency(ROOT / file)
        content[0] = _filled(leading(_with_charts(docname, text), source=file))
    elif source.endswith(".md"):
        content[0] = _filled(leading(_with_charts(docname, text)))


def _filled(text: str) -> str:
    """The text with what the comments in it ask for."""

    def made(match: re.Match[str]) -> str:
        module = generated if hasattr(generated, match[1]) else measured
        result: str = getattr(module, match[1])()
        return result

    return _GENERATED.sub(made, text)


def _with_charts(docname: str, text: str) -> str:
    """A page with the charts that the site adds below its title."""
    if docname not in CHARTS or "<!-- generated: " in text:
        return text
    title, rest = (measured.for_readers(text) if docname == "benchmarks" else text).split("\n", 1)
    return f"{title}\n\n<!-- generated: {CHARTS[docname]} -->\n{rest}"


def _with_links(markdown: str, source: str, source_url: str) -> str:
    """The Markdown of the file ``source`` with its links as they have to be on its page."""

    def replaced(match: re.Match[str]) -> str:
        return match[0] if match[2] is None else _link(match, source, source_url)

    return _CODE_OR_LINK.sub(replaced, markdown)


def _link(match: re.Match[str], source: str, source_url: str) -> str:
    text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if not path or ":" in path or path.startswith("/"):
        return match[0]
    place = normpath(join(dirname(source), path))
    if not (ROOT / place).exists():
        _logger.warning("%s links to %s, which does not exist", source, target)
        return text
    if page := _PAGES.get(f"{place}#{anchor}") or _PAGES.get(place):
        return f"[{text}]({page}{hash_}{anchor})"
    if place.startswith("docs/"):
        return f"[{text}]({place.removeprefix('docs')}{hash_}{anchor})"
    if source_url:
        return f"[{text}]({source_url.rstrip('/')}/{place}{hash_}{anchor})"
    if (ROOT / place).is_dir():
        return f"{text} (`{place}`)"
    return f"[{text}](path:/../{place})"


def _find_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    if node.get("refdomain") != "py":
        return None
    domain, parts = env.get_domain("py"), node["reftarget"].split(".")
    for tail in (".".join(parts[i:]) for i in range(len(parts))):
        for module in _PUBLIC:
            if f"{module}.{tail}" in domain.objects:
                name = f"{module}.{tail}"
                return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    # A module has no entry of its own: its name is shown as code.
    path = node["reftarget"].replace(".", "/")
    return content if any((ROOT / "fasteraa_transforms").rglob(f"{path}.py")) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("source_url", "", "env", str)
    app.connect("source-read", _read)
    app.connect("missing-reference", _find_public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
