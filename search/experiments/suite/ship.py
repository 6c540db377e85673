"""Make what the search kept on a data set of the suite a policy of the package, with its table of controls.

    python search/experiments/suite/ship.py cifar10 svhn

The file's provenance gets what it was measured against: the errors on test images of networks that were trained with
the policy and with every control. A policy that loses to TrivialAugment in its own table is refused.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from run import CASES, CONTROLS, POLICIES, rows
from scipy.special import stdtrit

from fasteraa_transforms import Policy


def controls_of(name: str, done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean error in percent of each augmentation that was tested on a data set, the kept policy first.

    Args:
        name: of the data set.
        done: the rows of the suite.

    Returns:
        A dictionary for each augmentation: ``augmentation``, ``error``, ``half_width`` of its 95 % interval over the
        seeds (None of one seed), ``seeds``.
    """
    result = []
    for augmentation in ["searched", *CONTROLS.split(",")]:
        found = {
            row["seed"]: 100 * row["error"]
            for row in done
            if (row["kind"], row["data"], row.get("augmentation")) == ("test", name, augmentation)
        }
        if not found:
            raise ValueError(f"{name} should have been tested with {augmentation}, but has no row of it")
        errors = list(found.values())
        width = None
        if len(errors) > 1:
            width = float(stdtrit(len(errors) - 1, 0.975)) * statistics.stdev(errors) / len(errors) ** 0.5
        result.append(
            {
                "augmentation": augmentation,
                "error": round(statistics.fmean(errors), 2),
                "half_width": None if width is None else round(width, 2),
                "seeds": sorted(found),
            }
        )
    return result


def shipped(name: str, policy: Policy, done: Sequence[Mapping[str, Any]]) -> Policy:
    """The policy of the first seed with its controls in the provenance.

    Raises:
        ValueError: it has more errors than TrivialAugment, or an augmentation was not tested.
    """
    controls = controls_of(name, done)
    errors = {row["augmentation"]: row["error"] for row in controls}
    if errors["searched"] > errors["trivialaugment"]:
        raise ValueError(
            f"{name} should have no more errors than TrivialAugment, but has {errors['searched']} % against "
            f"{errors['trivialaugment']} % instead"
        )
    case = CASES[name]
    source = {**policy.provenance.get("source", {}), "description": case.images_in_words}
    judged = {"model": case.model, "epochs": case.epochs, "train_images": case.images}
    provenance = {**policy.provenance, "source": source, "controls": controls, "controls_settings": judged}
    return Policy(policy.sub_policies, name=name, provenance=provenance)


def main() -> None:
    """Ship policies."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="+", choices=list(CASES))
    for name in parser.parse_args().names:
        policy = shipped(name, Policy.load(POLICIES / f"{name}-0.json"), rows())
        path = Path(str(files("fasteraa_transforms"))) / "policies" / f"{name}.json"
        policy.save(path)
        print(f"{path}: {policy.provenance['kept']}")


if __name__ == "__main__":
    main()
