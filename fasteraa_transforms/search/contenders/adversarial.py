"""The adversarial contender: the search of the paper, at the strengths that the settings name."""

import torch

from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.algorithm.loop import adversarial_search
from fasteraa_transforms.search.algorithm.setup import draws_one_operation
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.restrict import Allowed
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import Task


def adversarial(
    task: Task, settings: Settings, recorder: Recorder, allowed: Allowed, start: Policy | None = None
) -> list[Contender]:
    """Search as the paper does, and return a contender for each strength.

    Args:
        task: what is searched on.
        settings: of the search; its strengths are held one after another.
        recorder: keeps metrics and a checkpoint an epoch.
        allowed: operations and magnitudes that may be used.
        start: the policy to begin from; a random one if None.
    """
    beginning = None
    if start is not None or not allowed.everything:
        beginning = relaxed_start(start, allowed, settings, one_operation=draws_one_operation(task, settings))
    result = adversarial_search(task, settings, recorder, start=beginning)
    policy = result.state.policy
    contenders = []
    for end in result.ends:
        policy.load_state_dict(end.policy)
        name = "adversarial" if end.fraction is None else f"adversarial {end.fraction:g}"
        exact = allowed.restrict(policy.to_policy(name, prune=settings.prune))
        origin = "the paper's search" + ("" if end.fraction is None else f", {end.fraction:g} of its start's strength")
        contenders.append(Contender(name, exact, origin, searched=True))
    return contenders


def relaxed_start(
    start: Policy | None, allowed: Allowed, settings: Settings, *, one_operation: bool = False
) -> RelaxedPolicy:
    """The relaxed policy that a search begins from.

    Args:
        start: one sub-policy whose stages are alike, such as a calibrated policy; None for the allowed operations with
            random weights, probabilities and magnitudes.
        allowed: operations that may be used.
        settings: of the search.
        one_operation: whether each image draws one operation a stage, in place of the sum of all.

    Returns:
        Of the operations in ``start``, magnitudes are drawn below its largest ones, and probabilities are its own.
    """
    names = allowed.operations
    if start is not None:
        used = {each.operation for each in start.sub_policies[0][0]}
        names = tuple(name for name in names if name in used)
    relaxed = RelaxedPolicy(
        settings.sub_policies,
        settings.stages,
        operations=names,
        temperature=settings.temperature,
        selection_temperature=settings.selection_temperature,
        sample_selection=one_operation,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    with torch.no_grad():
        for index, name in enumerate(relaxed.operations):
            if OPERATIONS[name].has_magnitude:
                relaxed.magnitudes[..., index] *= allowed.limits.get(name, 1.0)
                if start is not None:
                    largest = max(each.magnitude or 0.0 for each in start.sub_policies[0][0] if each.operation == name)
                    relaxed.magnitudes[..., index] *= min(1.0, largest / max(allowed.limits.get(name, 1.0), 1e-6))
        if start is not None:
            relaxed.probabilities.fill_(start.sub_policies[0][0][0].probability)
    return relaxed
