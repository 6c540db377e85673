"""Policies of Fast AutoAugment. The public name is `Policy.from_fast_autoaugment`."""

import ast
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fasteraa_transforms.policy.errors import PolicyError, json_path, shown
from fasteraa_transforms.policy.files import read_text
from fasteraa_transforms.policy.interchange import NAMES, Converted, is_number

_MAX_SUB_POLICIES = 100_000  # adding a list to itself over and over is a short way to write an endless one
_MAX_CHARACTERS = 2**20  # the syntax tree takes 500 times as much; the published archive.py has 128,000


def _either_side(name: str) -> Callable[[float], dict[str, Any]]:
    """From -severest to severest, and then mirrored with equal chance: only the distance from the middle counts."""
    return lambda level: {"operation": name, "magnitude": abs(2 * level - 1)}


def _one_side(name: str) -> Callable[[float], dict[str, Any]]:
    """A factor from 0.1 to 1.9, not mirrored."""
    return lambda level: {"operation": name, "magnitude": abs(2 * level - 1), "sign": 1 if level >= 0.5 else -1}


def _without_level(name: str) -> Callable[[float], dict[str, Any]]:
    return lambda level: {"operation": name}


# What a level in [0, 1] of the table in augmentations.py (Lim et al. 2019, kakaobrain/fast-autoaugment) is here.
_CANDIDATES: dict[str, Callable[[float], dict[str, Any]]] = {
    **{name: _either_side(NAMES[name]) for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")},
    **{name: _one_side(NAMES[name]) for name in ("Contrast", "Color", "Brightness", "Sharpness")},
    **{name: _without_level(NAMES[name]) for name in ("AutoContrast", "Invert", "Equalize", "Flip")},
    "Solarize": lambda level: {"operation": "solarize", "magnitude": 1 - level},  # threshold 256 level
    "Posterize": lambda level: {"operation": "posterize", "magnitude": (8 - int(level * 4 + 4)) / 4},  # bits, truncated
    "Cutout": lambda level: {"operation": "cutout", "magnitude": level},
    "SamplePairing": lambda level: {"operation": "sample_pairing", "magnitude": level},
}
_UNEQUAL = {
    "Posterize2": "it keeps 0 to 4 bits, posterize 4 to 8",
    "TranslateXAbs": "it counts in pixels, translate_x in fractions of the width",
    "TranslateYAbs": "it counts in pixels, translate_y in fractions of the height",
    "CutoutAbs": "it counts in pixels, cutout in fractions of the width",
}
_DIFFERENCES = {
    "translate_x": "truncated to whole pixels here, rounded there",
    "translate_y": "truncated to whole pixels here, rounded there",
    "cutout": "clipped at every border here; there about a pixel larger, and moved inside at the left and top borders",
    "sample_pairing": "the partner is another image of the batch here, any image of the data set there",
}


def convert(source: Sequence[Any] | str | os.PathLike[str], function: str | None = None) -> Converted:
    """See `Policy.from_fast_autoaugment`."""
    name, where = function or "fast-autoaugment", "<policy>"
    if isinstance(source, str | os.PathLike):
        where = os.fspath(source)
        name = function or Path(where).stem or name
        source = _python_list(read_text(where), where, function)
    elif function is not None:
        raise TypeError(f"function should be None unless source is a file, but got {function!r} instead")
    if not isinstance(source, list | tuple):
        raise PolicyError(where, "$", shown(source), "a list of sub-policies")
    sub_policies = []
    for i, row in enumerate(source):
        if not isinstance(row, list | tuple):
            raise PolicyError(where, json_path((i,)), shown(row), "a list of (name, probability, level)")
        sub_policies.append([[_candidate(each, where, (i, k))] for k, each in enumerate(row)])
    used = {stage[0]["operation"] for sub_policy in sub_policies for stage in sub_policy}
    provenance = {
        "converted_from": "Fast AutoAugment" + ("" if where == "<policy>" else f", {Path(where).name}"),
        "differences": [f"{key}: {text}" for key, text in _DIFFERENCES.items() if key in used],
    }
    return Converted(sub_policies=sub_policies, name=name, provenance=provenance)


def _candidate(row: Any, source: str, place: tuple[int, ...]) -> dict[str, Any]:
    if not (isinstance(row, list | tuple) and len(row) == 3):
        raise PolicyError(source, json_path(place), shown(row), "(name, probability, level)")
    name, probability, level = row
    if not isinstance(name, str) or name not in _CANDIDATES:
        expected = f"one of {', '.join(_CANDIDATES)}"
        if isinstance(name, str) and name in _UNEQUAL:
            expected += f" ({_UNEQUAL[name]})"
        raise PolicyError(source, json_path((*place, 0)), shown(name), expected)
    for k, value in ((1, probability), (2, level)):
        if not is_number(value) or not 0 <= value <= 1:
            raise PolicyError(source, json_path((*place, k)), shown(value), "a number in [0, 1]")
    return {**_CANDIDATES[name](level), "weight": 1.0, "probability": float(probability)}


def _python_list(text: str, source: str, name: str | None) -> Any:
    """The list that a text is, or that it gives a name to, or that one of its functions returns.

    The list is read from the syntax tree; nothing is executed.
    """
    if len(text) > _MAX_CHARACTERS:
        raise PolicyError(source, "$", f"{len(text)} characters", f"at most {_MAX_CHARACTERS}")
    try:
        body = ast.parse(text).body
        if len(body) == 1 and isinstance(body[0], ast.Expr) and name is None:
            return ast.literal_eval(body[0].value)
        functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        lists = _named_lists(body)
        if name is None and not functions and len({id(value) for value in lists.values()}) == 1:
            return next(iter(lists.values()))
        if name is None:
            kinds = (("functions", functions), ("lists", lists))
            found = [f"the {kind} {', '.join(names)}" for kind, names in kinds if names]
            if found:
                raise PolicyError(source, "$", " and ".join(found), "the name of one as `function`")
            raise PolicyError(source, "$", f"{len(body)} statements", "one list of sub-policies")
        if name in lists:
            return lists[name]
        if name in functions:
            return _returned(functions[name], lists, source)
    except PolicyError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise PolicyError(source, "$", f"no list ({shown(str(error))})", "a list of sub-policies") from None
    raise PolicyError(source, "$", f"no function or list {name}", "one that returns or is the policy")


def _named_lists(body: list[ast.stmt]) -> dict[str, Any]:
    """The lists that statements give names to, and nothing else that they do."""
    names: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            with suppress(ValueError, TypeError):  # what is assigned is something else
                value = _value(node.value, names)
                if isinstance(value, list):
                    names |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return names


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """The value of a literal, a name, or a sum of them."""
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        total = _value(node.left, names) + _value(node.right, names)
        if len(total) > _MAX_SUB_POLICIES:
            raise ValueError(f"more than {_MAX_SUB_POLICIES} sub-policies")
        return total
    return ast.literal_eval(node)


def _returned(function: ast.FunctionDef, lists: dict[str, Any], source: str) -> Any:
    """The return value of a function that only names lists and adds them up, like the functions of archive.py."""
    if function.decorator_list:  # there: from AutoAugment's levels and pixels to levels in [0, 1]
        raise PolicyError(source, "$", f"a decorated {function.name}", "a function without a decorator")
    names = dict(lists)
    for node in function.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = _value(node.value, names)
        elif isinstance(node, ast.Return) and node.value is not None:
            return _value(node.value, names)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # a docstring
            break
    place = f"line {node.lineno}"
    raise PolicyError(source, "$", f"{place} of {function.name}", "lists, named and added up, and a return")
