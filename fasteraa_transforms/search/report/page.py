"""The report of a run: one HTML page that holds all it shows, for a phone as for a wide screen."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy
from fasteraa_transforms.policy.pictures import describe, tile
from fasteraa_transforms.search.report import plots as pictures

_ORIGINALS, _SAMPLES = 2, 3  # of each sub-policy: so many images, each so often augmented
_SIDE = 96  # pixels of a picture
_SHOWN = 25  # sub-policies in pictures; the table has all

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #59636e; --page: #fff; --box: #f6f8fa; --line: #d1d9e0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --dim: #9198a1; --page: #0d1117; --box: #151b23; --line: #3d444d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.verdict { border: 1px solid var(--line); border-left: .4rem solid #bf8700; background: var(--box);
  padding: .2rem 1rem; border-radius: .4rem; }
.verdict p:first-child { font-weight: 600; }
.dim, figcaption { color: var(--dim); }
.curves { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.curves svg { width: 100%; height: auto; display: block; }
.tiles { display: grid; gap: .4rem; grid-template-columns: repeat(4, minmax(0, 6rem)); }
@media (min-width: 56rem) { .tiles { grid-template-columns: repeat(8, minmax(0, 6rem)); } }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; image-rendering: pixelated; }
figcaption { font-size: .7rem; line-height: 1.25; }
.scroll { overflow: auto; width: fit-content; max-width: 100%; max-height: 40rem;
  border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .25rem .45rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--box); }
"""


def page(
    policy: Policy,
    *,
    verdict: Sequence[str],
    metrics: Sequence[dict[str, Any]],
    images: Tensor,
    source: Mapping[str, Any] | None = None,
) -> str:
    """The report of a run as HTML, with neither scripts nor anything from elsewhere.

    Args:
        policy: what was found; its provenance is shown.
        verdict: in plain words, a line a paragraph.
        metrics: the rows of ``metrics.jsonl``.
        images: uint8 [N, C, H, W] to show the policy on, the first two of them. Of more than three channels the first
            three are shown, of two the first.
        source: how the dataset was opened.
    """
    title = escape(f"Search of {policy.name}")
    provenance = dict(policy.provenance)
    facts = {"source": dict(source or {}), **{key: provenance[key] for key in provenance if key != "diagnosis"}}
    shares = [row["share"] for row in metrics if row["kind"] == "epoch"]
    # Of the policy that was kept, which need not be that of the last epoch.
    kept: Any = provenance.get("diagnosis") or {}
    final = kept.get("share_end", shares[-1])
    shown = min(len(policy), _SHOWN)
    parts = [
        f"<h1>{title}</h1>",
        '<section class="verdict">',
        *(f"<p>{escape(line)}</p>" for line in verdict),
        "</section>",
        "<h2>Curves</h2>",
        '<div class="curves">',
        *(
            f'<div role="img" aria-label="curves: {name}">{pictures.curve_svg(metrics, name)}</div>'
            for name in pictures.PANELS
        ),
        "</div>",
        "<h2>Operations</h2>",
        '<p class="dim">Share: selection × probability, mean over all stages, at the start and at the end.</p>',
        _table(
            ("operation", "start", "end", "change"),
            ((name, *_change(shares[0][name], final[name])) for name in shares[0]),
            numbers=(1, 2, 3),
        ),
        "<h2>The policy in pictures</h2>",
        f'<p class="dim">{shown} of {len(policy)} sub-policies. Each image draws one of them, with equal chance. '
        "A dash: the stage left the image as it was.</p>",
        *_pictures(policy, images, shown),
        "<h2>The policy as a table</h2>",
        '<p class="dim">A stage chooses one of its operations, then applies it with the probability.</p>',
        _table(
            ("sub-policy", "stage", "operation", "chosen", "probability", "magnitude", "that is"),
            (
                (i, k, each.operation, f"{each.weight:.1%}", f"{each.probability:.2f}", *magnitude_text(each))
                for i, sub_policy in enumerate(policy.sub_policies)
                for k, stage in enumerate(sub_policy)
                for each in sorted(stage, key=lambda each: -each.weight)
            ),
            numbers=(0, 1, 3, 4, 5, 6),
        ),
        "<h2>Settings and versions</h2>",
        _table(("setting", "value"), _flat(facts)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # A second line of defence behind the escaping: the page can load and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """A table in a box of its own, in which it scrolls; the columns ``numbers`` are set flush right."""
    kinds = [' class="number"' if i in numbers else "" for i in range(len(head))]
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    titles = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    # tabindex: a box that scrolls has to be reachable by keyboard.
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _change(start: float, end: float) -> tuple[str, str, str]:
    return f"{start:.4f}", f"{end:.4f}", f"{end / start - 1:+.0%}" if start else "-"


def magnitude_text(candidate: Candidate) -> tuple[str, str]:
    """The magnitude and the physical parameter it stands for."""
    operation = OPERATIONS[candidate.operation]
    if candidate.magnitude is None:
        return "-", "-"
    weakest, value = (operation.parameter(torch.tensor(at)).item() for at in (0.0, candidate.magnitude))
    if not operation.signed:
        text = f"{value:.3g}"
    elif candidate.sign is None:
        text = f"{weakest:g} ± {value - weakest:.2g}" if weakest else f"± {value:.3g}"
    else:
        text = f"{weakest + candidate.sign * (value - weakest):.3g}"
    return f"{candidate.magnitude:.2f}", f"{text} {operation.unit}"


def _pictures(policy: Policy, images: Tensor, shown: int) -> Iterable[str]:
    """Originals, and beside each what a sub-policy makes of it, for the first ``shown`` ones."""
    generator = torch.Generator().manual_seed(0)
    originals = images[:_ORIGINALS]
    # Image by image in turn, so that partners are mostly others.
    batch = originals.repeat(_SAMPLES, 1, 1, 1)
    for i, sub_policy in enumerate(policy.sub_policies[:shown]):
        plan = Policy([sub_policy]).sample(len(batch), generator=generator)
        augmented = apply(batch, plan)
        yield f"<h3>Sub-policy {i}</h3>"
        yield '<div class="tiles">'
        for j, original in enumerate(originals):
            yield _figure(original, ["original"])
            for k in range(j, len(batch), len(originals)):
                yield _figure(augmented[k], describe(plan, k))
        yield "</div>"


def _figure(image: Tensor, lines: Sequence[str]) -> str:
    """A picture with lines below it."""
    file = io.BytesIO()
    tile(image[: 3 if len(image) >= 3 else 1], _SIDE).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    caption = "<br>".join(escape(line).replace("_", "_<wbr>") for line in lines)
    return (
        f'<figure><img alt="{escape(", ".join(lines))}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested facts as rows of (path, value)."""
    for key, value in facts.items():
        match value:
            case Mapping():
                yield from _flat(value, f"{prefix}{key}.")
                continue
            case list() | tuple():
                text = ", ".join(map(str, value))
            case float():
                text = f"{value:.6g}"
            case None:
                text = "as fits the dataset"
            case _:
                text = str(value)
        yield f"{prefix}{key}", text
