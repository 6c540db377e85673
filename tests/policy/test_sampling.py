"""What a policy draws."""

import copy
import itertools
import math
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import candidate, example

from fasteraa_transforms import FasterAutoAugment, Plan
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy
from fasteraa_transforms.policy.sampling import tables_of

NAMES = list(OPERATIONS)
LARGEST = 1 - 2.0**-53  # the largest number that torch.rand draws


# ------------------------------------------------------------------------------------------------------------ sampling


def drawn(values: list[list[float]], monkeypatch: pytest.MonkeyPatch, policy: Policy) -> Any:
    """The plan when torch.rand draws these values."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(values, dtype=torch.float64))
    return policy.sample(len(values))


def test_every_column_means_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    #                  sub   choice gate  sign  x    y    other  choice gate  sign  x    y    other
    rows = [
        [0.00, 0.00, 0.29, 0.49, 0.1, 0.2, 0.00, 0.99, 0.99, 0.5, 0.3, 0.4, 0.99],
        [0.49, 0.50, 0.91, 0.50, 0.1, 0.2, 0.50, 0.00, 0.00, 0.5, 0.3, 0.4, 0.00],
        [0.50, 0.10, 0.49, 0.00, 0.1, 0.2, 0.99, 0.49, 0.50, 0.5, 0.3, 0.4, 0.49],
        [0.99, 0.09, 0.00, 0.99, 0.1, 0.2, 0.34, 0.50, 0.49, 0.5, 0.3, 0.4, 0.99],
    ]
    plan = drawn(rows, monkeypatch, example())
    names = [[NAMES[index] for index in row] for row in plan.operation.tolist()]
    assert names == [
        ["rotate", "cutout"],
        ["flip", "cutout"],
        ["brightness", "sample_pairing"],
        ["solarize", "invert"],
    ]
    assert plan.sub_policy.tolist() == [0, 0, 1, 1]
    assert plan.applied.tolist() == [[True, True], [False, True], [True, False], [False, True]]
    expected = [[-12.0, 0.08], [0.0, 0.08], [0.1, 0.16], [256 * 0.6, 0.0]]
    torch.testing.assert_close(plan.parameter, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-14)
    assert plan.centre.tolist() == [[[0.1, 0.2], [0.3, 0.4]]] * 4
    assert plan.partner.tolist() == [[1, 3], [3, 2], [1, 0], [1, 2]]


@pytest.mark.parametrize("value", [0.0, LARGEST])
@pytest.mark.parametrize("images", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("sub_policies", [1, 3, 49])
def test_the_ends_of_the_unit_interval_stay_inside(
    value: float, images: int, sub_policies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights of 1/49 sum to less than 1 in float64 and 3 * 1/3 to 1: the last candidate takes what is left.
    stage = [candidate(magnitude=index / 48) for index in range(49)]
    policy = Policy([[stage]] * sub_policies)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, value, dtype=torch.float64))
    plan = policy.sample(images)
    last = value > 0
    assert plan.sub_policy.tolist() == [(sub_policies - 1) * last] * images
    assert plan.parameter.abs().tolist() == [[30.0 * last]] * images
    expected = [(image + (images - 1 if last else 1)) % images for image in range(images)]
    assert plan.partner[:, 0].tolist() == (expected if images > 1 else [0] * images)


def test_one_draw_and_no_other_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    rand = torch.rand

    def counted(*size: int, **options: Any) -> torch.Tensor:
        calls.append((*size, options["dtype"], options["device"]))
        return rand(*size, **options)

    monkeypatch.setattr(torch, "rand", counted)
    generator, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    example().sample(7, generator)
    assert calls == [(7, 1 + 6 * 2, torch.float64, torch.device("cpu"))]
    rand(7, 13, dtype=torch.float64, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def steps_of(plan: Any) -> list[tuple[int, float, tuple[float, float]]]:
    """What `sample_one` says of a plan of one image."""
    (operations,), (parameters,) = plan.operation.tolist(), plan.parameter.tolist()
    (applied,), (centres,) = plan.applied.tolist(), plan.centre.tolist()
    rows = zip(operations, parameters, map(tuple, centres), applied, strict=True)
    return [(operation, parameter, centre) for operation, parameter, centre, happens in rows if happens]


def test_one_image_draws_what_a_plan_of_one_draws() -> None:
    every = [
        candidate(name, weight=index + 1, **({"magnitude": 0.37} if OPERATIONS[name].has_magnitude else {}))
        for index, name in enumerate(NAMES)
    ]
    for policy in (example(), Policy([[every, every[:5]], [every[3:4], every], [every[::-1], every[7:]]])):
        generator, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        for _ in range(500):
            assert policy.sample_one(generator) == steps_of(policy.sample(1, twin))
        assert torch.equal(generator.get_state(), twin.get_state())
        torch.manual_seed(9)
        first = policy.sample_one()
        torch.manual_seed(9)
        assert first == steps_of(policy.sample(1))


def test_one_image_is_drawn_alike_in_every_mode_and_thread() -> None:
    policy, expected = example(), steps_of(example().sample(1, torch.Generator().manual_seed(5)))
    with torch.inference_mode():  # where the room for the numbers is made
        assert policy.sample_one(torch.Generator().manual_seed(5)) == expected
    assert policy.sample_one(torch.Generator().manual_seed(5)) == expected

    def draw(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [policy.sample_one(generator) for _ in range(300)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(24))) == [draw(seed) for seed in range(24)]


def test_a_policy_that_has_drawn_one_image_can_be_copied() -> None:
    policy = example()
    policy.sample_one()
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert copied == policy
        assert copied.sample_one(torch.Generator().manual_seed(5)) == policy.sample_one(
            torch.Generator().manual_seed(5)
        )


@pytest.mark.parametrize("value", [0.0, LARGEST])
@pytest.mark.parametrize("sub_policies", [1, 3, 49])
def test_one_image_stays_inside_at_the_ends_of_the_unit_interval(
    value: float, sub_policies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy([[[candidate(magnitude=index / 48) for index in range(49)]]] * sub_policies)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, value, dtype=torch.float64))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda numbers, **_: numbers.fill_(value))
    assert policy.sample_one() == steps_of(policy.sample(1))


def test_without_a_generator_the_default_one_is_used() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plan = example().sample(20)
    assert plan == example().sample(20, torch.Generator().manual_seed(3))


def test_the_default_dtype_and_device_do_not_matter() -> None:
    expected = example().sample(20, torch.Generator().manual_seed(3))
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            plan = example().sample(20, torch.Generator().manual_seed(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert plan == expected


@pytest.mark.parametrize("images", [1, 2, 3, 15, 16, 17, 100])
def test_an_image_draws_the_same_in_a_batch_of_any_size(images: int) -> None:
    large = example().sample(1000, torch.Generator().manual_seed(11))[:images]
    small = example().sample(images, torch.Generator().manual_seed(11))
    for name in ("operation", "parameter", "applied", "centre", "sub_policy"):
        assert torch.equal(getattr(large, name), getattr(small, name)), name


def test_an_empty_batch() -> None:
    plan = example().sample(0)
    assert (len(plan), plan.stages) == (0, 2)
    with pytest.raises(ValueError, match="batch_size should be 0 or more, but got -1"):
        example().sample(-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0.0, 0.3, 0.375, 1.0])
def test_parameters_are_those_of_the_table(name: str, magnitude: float) -> None:
    operation = OPERATIONS[name]
    values = {"magnitude": magnitude} if operation.has_magnitude else {}
    plan = Policy([[[candidate(name, **values)]]]).sample(64, torch.Generator().manual_seed(0))
    size = torch.tensor(magnitude if operation.has_magnitude else 0.0, dtype=torch.float64)
    expected = {float(operation.parameter(sign * size)) for sign in ((1, -1) if operation.signed else (1,))}
    assert set(plan.parameter.flatten().tolist()) == expected


COUNT = 40_000


def assert_share(found: torch.Tensor, expected: float) -> None:
    """A boolean tensor is true as often as expected, within five standard deviations."""
    deviation = math.sqrt(expected * (1 - expected) / found.numel())
    assert float(found.double().mean()) == pytest.approx(expected, abs=5 * deviation + 1e-12)


@pytest.fixture(scope="module")
def many() -> Any:
    return example().sample(COUNT, torch.Generator().manual_seed(2024))


def test_sub_policies_are_uniform(many: Any) -> None:
    assert_share(many.sub_policy == 0, 0.5)
    plan = Policy([[[candidate()]]] * 7).sample(COUNT, torch.Generator().manual_seed(1))
    for index in range(7):
        assert_share(plan.sub_policy == index, 1 / 7)


def test_candidates_follow_their_weights_and_gates_their_probabilities(many: Any) -> None:
    for index, sub_policy in enumerate(example().sub_policies):
        rows = many.sub_policy == index
        for k, stage in enumerate(sub_policy):
            for each in stage:
                chosen = many.operation[rows, k] == NAMES.index(each.operation)
                assert_share(chosen, each.weight)
                assert_share(many.applied[rows, k][chosen], each.probability)


def test_signs_are_even(many: Any) -> None:
    signed = many.operation == NAMES.index("rotate")
    assert_share(many.parameter[signed] > 0, 0.5)
    assert many.parameter[signed].abs().unique().tolist() == [12.0]
    unsigned = many.operation == NAMES.index("cutout")
    assert many.parameter[unsigned].unique().tolist() == pytest.approx([0.08])


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.signed])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_fixed_sign_is_the_only_one(name: str, sign: int) -> None:
    stage = [candidate(name, sign=sign), candidate("flip"), candidate(name, magnitude=0.7)]
    plan = Policy([[stage]]).sample(400, torch.Generator().manual_seed(0))
    found = set(plan.parameter[plan.operation == NAMES.index(name)].tolist())
    fixed, drawn = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    assert found == {float(OPERATIONS[name].parameter(each)) for each in (sign * fixed, drawn, -drawn)}


def test_a_fixed_sign_changes_no_other_draw() -> None:
    seeds = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    drawn = Policy([[[candidate()], [candidate("cutout")]]]).sample(100, seeds[0])
    fixed = Policy([[[candidate(sign=1)], [candidate("cutout")]]]).sample(100, seeds[1])
    assert torch.equal(fixed.parameter, drawn.parameter.abs())
    for name in ("operation", "applied", "centre", "partner", "sub_policy"):
        assert torch.equal(getattr(fixed, name), getattr(drawn, name)), name


def test_centres_are_uniform(many: Any) -> None:
    assert many.centre.min() >= 0
    assert many.centre.max() < 1
    for k in range(2):
        for axis in range(2):
            for tenth in range(10):
                assert_share((many.centre[:, k, axis] * 10).long() == tenth, 0.1)


def test_partners_are_uniform_over_the_others(many: Any) -> None:
    image = torch.arange(COUNT)[:, None]
    offset = (many.partner - image) % COUNT
    assert offset.min() >= 1
    assert many.partner.min() >= 0
    assert many.partner.max() < COUNT
    for tenth in range(10):
        assert_share((offset - 1) * 10 // (COUNT - 1) == tenth, 0.1)


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_partners_in_a_small_batch(images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    partners = torch.stack([example().sample(images, generator).partner for _ in range(300)])  # [draws, B, K]
    for image in range(images):
        others = [other for other in range(images) if other != image] or [image]
        assert partners[:, image].unique().tolist() == others
        for other in others:
            assert_share(partners[:, image] == other, 1 / len(others))


def test_draws_are_independent(many: Any) -> None:
    # What a stage draws says nothing of what else is drawn: all pairs of yes-or-no questions are uncorrelated.
    answers = {
        "sub-policy": many.sub_policy == 0,
        "gate": many.applied[:, 1] & (many.sub_policy == 1),
        "x 0": many.centre[:, 0, 0] < 0.5,
        "y 0": many.centre[:, 0, 1] < 0.5,
        "x 1": many.centre[:, 1, 0] < 0.5,
        "partner 0": (many.partner[:, 0] - torch.arange(COUNT)) % COUNT < COUNT // 2,
        "partner 1": (many.partner[:, 1] - torch.arange(COUNT)) % COUNT < COUNT // 2,
    }
    questions = torch.stack(list(answers.values())).double()
    correlation = torch.corrcoef(questions)
    correlation[0, 1] = correlation[1, 0] = 0  # the gate was asked of one sub-policy only
    off_diagonal = correlation - torch.eye(len(answers), dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / math.sqrt(COUNT)


def test_a_sub_policy_keeps_its_stages_together(many: Any) -> None:
    for index, sub_policy in enumerate(example().sub_policies):
        rows = many.sub_policy == index
        for k, stage in enumerate(sub_policy):
            allowed = {NAMES.index(each.operation) for each in stage}
            assert set(many.operation[rows, k].tolist()) == allowed


def padded_plan(policy: Policy, uniform: torch.Tensor) -> Plan:
    """What the numbers choose in tables where every stage is as wide as the widest: the definition of a draw."""
    widest = max(len(stage) for sub_policy in policy.sub_policies for stage in sub_policy)
    ends = torch.full((len(policy), policy.stages, widest), math.inf, dtype=torch.float64)
    for i, sub_policy in enumerate(policy.sub_policies):
        for k, stage in enumerate(sub_policy):
            weights = torch.tensor([each.weight for each in stage], dtype=torch.float64)
            ends[i, k, : len(stage) - 1] = weights.cumsum(0)[:-1]
    batch = len(uniform)
    choice, gate, sign, x, y, other = uniform[:, 1:].reshape(batch, policy.stages, 6).unbind(-1)
    chosen = (uniform[:, 0] * len(policy)).long()
    place = (choice[..., None] >= ends[chosen]).sum(-1)
    candidates = [[policy.sub_policies[chosen[b]][k][place[b, k]] for k in range(policy.stages)] for b in range(batch)]

    def parameter(each: Candidate, negative: bool) -> float:
        row = OPERATIONS[each.operation]
        side = (-1 if negative else 1) if row.signed and each.sign is None else each.sign or 1
        return float(row.parameter(torch.tensor(side * (each.magnitude or 0.0), dtype=torch.float64)))

    return Plan(
        operation=torch.tensor([[NAMES.index(each.operation) for each in row] for row in candidates]),
        parameter=torch.tensor(
            [
                [parameter(each, bool(sign[b, k] < 0.5)) for k, each in enumerate(row)]
                for b, row in enumerate(candidates)
            ],
            dtype=torch.float64,
        ),
        applied=torch.tensor(
            [[bool(gate[b, k] < each.probability) for k, each in enumerate(row)] for b, row in enumerate(candidates)]
        ),
        centre=torch.stack((x, y), -1),
        partner=(torch.arange(batch)[:, None] + 1 + (other * (batch - 1)).long()) % batch,
        sub_policy=chosen,
    )


def stage_of(width: int, seed: int) -> list[dict[str, Any]]:
    """A stage of so many candidates, of every operation, with uneven weights."""
    numbers = torch.rand(width, 3, generator=torch.Generator().manual_seed(seed)).tolist()
    return [
        candidate(name, 0.01 + weight, probability, **({"magnitude": size} if OPERATIONS[name].has_magnitude else {}))
        for name, (weight, probability, size) in zip(itertools.cycle(NAMES), numbers, strict=False)
    ]


@pytest.mark.parametrize(
    "widths",
    [
        [[1, 1], [1, 2]],
        [[17, 3], [5, 17], [1, 1]],
        [[64, 64]],
        [[65, 1], [2, 3]],
        [[1000, 1], [1, 1], [3, 999]],
        *[[[1]] * 300 + [[700]]],
    ],
    ids=["small", "ragged", "widest that is padded", "narrowest that is not", "wide", "one wide among many"],
)
def test_draws_are_those_of_the_definition_however_wide_the_stages_are(widths: list[list[int]]) -> None:
    policy = Policy([[stage_of(width, 10 * i + k) for k, width in enumerate(row)] for i, row in enumerate(widths)])
    uniform = torch.rand(400, 1 + 6 * policy.stages, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plan = policy.sample(400, torch.Generator().manual_seed(1))
    assert plan == padded_plan(policy, uniform)
    seeds = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    for _ in range(50):
        assert policy.sample_one(seeds[0]) == steps_of(policy.sample(1, seeds[1]))


@pytest.mark.parametrize("value", [0.0, LARGEST])
def test_the_ends_of_the_unit_interval_stay_inside_wide_stages(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = [candidate(magnitude=index / 999) for index in range(1000)]
    policy = Policy([[[candidate()], stage], [stage, [candidate()]]])
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, value, dtype=torch.float64))
    (row,) = policy.sample(1).parameter.abs().tolist()
    assert row == pytest.approx([12.0, 0.0] if value == 0 else [30.0, 12.0])


def test_tables_are_as_large_as_the_policy() -> None:
    # Padded to the widest stage they would have 4 million rows, some 160 MB.
    policy = Policy([[[candidate("flip")]]] * 2000 + [[[candidate("flip")] * 2000]])
    size = len(policy.to_json())
    for draw in (lambda: policy.sample(256), policy.sample_one):
        tracemalloc.start()
        draw()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * size
    tables = tables_of(policy.sub_policies)
    assert sum(table.nbytes for table in vars(tables).values() if isinstance(table, torch.Tensor)) < size


def test_padded_tables_are_few_times_as_large_as_the_policy() -> None:
    # Only narrow stages are padded, which a GPU draws from in one kernel; the shipped policies have such.
    assert tables_of(example().sub_policies).bounds is None
    wide = Policy([[stage_of(64, 0)], *([[candidate()]] for _ in range(500))])
    assert tables_of(wide.sub_policies).bounds is not None
    assert tables_of(FasterAutoAugment.from_pretrained("cifar10").policy.sub_policies).bounds is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sampling_on_the_gpu() -> None:
    plan = example().sample(COUNT, torch.Generator("cuda").manual_seed(0))
    assert plan.operation.device.type == "cuda"
    assert plan == example().sample(COUNT, torch.Generator("cuda").manual_seed(0))
    plan = plan.to("cpu")
    assert_share(plan.sub_policy == 0, 0.5)
    assert_share(plan.operation[plan.sub_policy == 0, 0] == NAMES.index("rotate"), 0.5)
    assert_share(plan.applied[plan.operation == NAMES.index("rotate")], 0.3)
