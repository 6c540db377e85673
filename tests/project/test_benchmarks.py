"""The benchmarks, the experiments of the search, and the pages that show what was measured."""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import wasserstein
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms.v2 import AutoAugment

from fasteraa_transforms import Policy
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.relaxed import Draw, RelaxedPolicy
from fasteraa_transforms.search import Digits, Settings, load_images
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """A benchmark."""
    return load_file(name, ROOT / "benchmarks" / f"{name}.py")


def experiment(name: str) -> ModuleType:
    """An experiment of the search."""
    return load_file(name, ROOT / "search" / "experiments" / name / "run.py")


def load_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and one another's imports look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    return load("search_step")


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    return experiment("strength")


@pytest.fixture(scope="module")
def remedies() -> ModuleType:
    return experiment("remedies")


def states(module: ModuleType, rate: float | None = None) -> tuple[SearchState, SearchState]:
    """Two equal states, one of them with PyTorch's own layers; with Adam, or gradient descent at ``rate``."""
    result = []
    for plain in (False, True):
        torch.manual_seed(0)
        policy = RelaxedPolicy(2, 2)
        critic = Critic(WideResNet(10, 1), classes=10, image_shape=(3, 16, 16))
        critic = module.plain_layers(critic) if plain else critic.to(memory_format=torch.channels_last)
        optimizers = [
            torch.optim.Adam(part.parameters(), 1e-3, (0.0, 0.999))
            if rate is None
            else torch.optim.SGD(part.parameters(), rate)
            for part in (policy, critic)
        ]
        result.append(SearchState(policy, critic, *optimizers, torch.Generator().manual_seed(0)))
    return result[0], result[1]


def both_steps(
    module: ModuleType, ours: SearchState, plain: SearchState, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the step of the package and the straightforward one measure on the same batch with the same draws."""
    chunk, half = module.CHUNK, 16
    images, labels = torch.rand(2 * half, 3, 16, 16), torch.randint(10, (2 * half,))
    draws = [ours.policy.draw(chunk) for _ in range(half // chunk)]
    draws = [draw._replace(sub_policy=draw.sub_policy[:1].expand(chunk)) for draw in draws]
    whole = Draw(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
    # A chunk knows only its own images as partners; in the whole batch they lie further on.
    whole = whole._replace(partner=torch.cat([draw.partner + i * chunk for i, draw in enumerate(draws)]))
    monkeypatch.setattr(ours.policy, "draw", lambda *_, **__: whole)
    mix = torch.rand(half, generator=torch.Generator().manual_seed(0))
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    measured = wasserstein(mean, std, **options).step(ours, images, labels)
    values = module.straightforward_step(wasserstein(mean, std), plain, images, labels, draws=draws, mix=mix)
    names = ("wasserstein", "gradient_penalty", "class_loss_real", "class_loss_augmented")
    return {name: measured[name] for name in names}, dict(zip(names, values, strict=True))


def test_the_straightforward_step_computes_the_same_losses(
    benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, plain = both_steps(benchmark_module, *states(benchmark_module), monkeypatch)
    # After a step of Adam, whose first step is the sign of each gradient, rounding may turn single weights.
    last = "class_loss_augmented"
    torch.testing.assert_close(ours.pop(last), plain.pop(last), rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def gradient(state: SearchState, part: str) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in getattr(state, part).parameters()])


def test_the_straightforward_step_has_the_same_gradients(
    benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the critic, all its losses together, and of the policy; the rate is 0, so that both see the same critic."""
    ours, plain = states(benchmark_module, rate=0.0)
    torch.testing.assert_close(*both_steps(benchmark_module, ours, plain, monkeypatch), rtol=1e-4, atol=1e-5)
    for part in ("critic", "policy"):
        reference = gradient(plain, part)
        assert reference.norm() > 1e-2
        assert (gradient(ours, part) - reference).norm() < 1e-3 * reference.norm(), part


def test_in_bfloat16_the_step_is_as_exact_as_torchs_own_layers_are(
    benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = []
    for stock in (False, True):
        ours, plain = states(benchmark_module, rate=0.0)
        if stock:
            benchmark_module.plain_layers(ours.critic)
        torch.manual_seed(1)
        measured = both_steps(benchmark_module, ours, plain, monkeypatch, precision=torch.bfloat16)
        torch.testing.assert_close(*measured, rtol=2e-2, atol=2e-2)
        errors.append(
            [
                float((gradient(ours, part) - gradient(plain, part)).norm() / gradient(plain, part).norm())
                for part in ("critic", "policy")
            ]
        )
    for error, of_stock in zip(*errors, strict=True):
        assert 1e-3 < error < 1.25 * of_stock


def test_halves_apart_is_another_objective(benchmark_module: ModuleType) -> None:
    """Batch norm takes each half's own mean away, so the estimates cannot agree."""
    torch.manual_seed(1)
    images, labels = torch.rand(32, 3, 16, 16), torch.randint(10, (32,))
    images[:16] *= 0.5  # the half that is augmented is darker: a difference that any critic should see
    objective = wasserstein(torch.full((3,), 0.5), torch.full((3,), 0.25))
    together, apart = states(benchmark_module)
    benchmark_module.plain_layers(together.critic)
    estimate = [
        benchmark_module.straightforward_step(objective, state, images, labels, separate=separate)[0].abs()
        for state, separate in ((together, False), (apart, True))
    ]
    assert estimate[1] < estimate[0]


def test_it_runs(benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    threads = torch.get_num_threads()
    command = ["search_step.py", "--device", "cpu", "--rounds", "1", "--depth", "10", "--batch", "16"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark_module.main()
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert "median of 1" in printed
    assert printed.count("this package takes") == 3


def test_the_profile_counts_the_work_of_each_part(benchmark_module: ModuleType) -> None:
    found = benchmark_module.profile(torch.device("cpu"), depth=10, batch=4, rounds=1)
    rows = found["parts"]
    *parts, whole = rows
    assert len(parts) == 6
    assert all(row["seconds"] > 0 and row["bytes"] > 0 for row in rows.values())
    operations = {name: row["operations"] for name, row in rows.items()}
    assert sum(operations[name] for name in parts) == pytest.approx(operations[whole], rel=1e-2)
    # Of the two halves a forward pass, and one backward each to inputs and weights; the first layer has no input to.
    forward = 2 * sum(
        x.numel() // x.shape[1] * weight.numel() // stride**2 for x, weight, stride in convolutions(benchmark_module)
    )
    assert operations["critic: real and augmented, forward and backward"] == pytest.approx(3 * forward, rel=0.05)
    assert operations["critic for the policy: forward, backward to the images"] == pytest.approx(2 * forward, rel=0.05)


def convolutions(module: ModuleType) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Input, weight and stride of each convolution of a WideResNet-10-2 for 4 images."""
    critic = module.make_state(10, channels_last=True).critic
    found: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    for layer in critic.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_pre_hook(
                lambda layer, inputs: found.append((inputs[0], layer.weight, layer.stride[0]))
            )
    with torch.no_grad():
        critic(torch.rand(4, 3, 32, 32))
    return found


def test_whole_searches_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("search_step")
    module = load("search_run")
    command = ["search_run.py", "--smoke", "--device", "cpu", "--repeats", "1", "--rounds", "1", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(tmp_path / "result.json")])
    module.main()
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["smoke"]
    assert set(document["searches"]) == set(module.SEARCHES)
    for each in document["searches"].values():
        assert each["steps"] == 6
        assert [0 < run["seconds"] < run["with_loading_and_report"] for run in each["runs"]] == [True]
    variants = document["seconds_per_step"]["variants"]
    assert {"this package", "straightforward"} < set(variants)
    assert all(len(seconds) == 1 and min(seconds) > 0 for seconds in variants.values())


def test_precisions_are_compared_seed_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module = experiment("precision")
    command = ["run.py", "--out", str(tmp_path), "--seeds=2", "--images=16", "--epochs=1", "--batch=8"]
    monkeypatch.setattr(sys, "argv", command)
    module.main()
    first = capsys.readouterr().out
    monkeypatch.setattr(module, "run", None)  # nothing is left to do
    module.main()
    assert capsys.readouterr().out == first
    assert "2 seeds, 2 steps each" in first

    rows = []
    for seed, precision in itertools.product((0, 1), module.PRECISIONS):
        share = {"flip": 0.1 * seed, "invert": 0.03 if precision == "bfloat16" else 0.0}
        row = {"seed": seed, "precision": precision, "drift": 0.5, "strength": 0.1 + 0.01 * seed}
        rows.append({**row, "share": share, "change": share})
    lines = module.table([*rows, {**rows[0], "seed": 7}])  # whose other precision is not done
    assert "| share | 0.030 (0.030 to 0.030) | 0.100 (0.100 to 0.100) |" in lines
    assert "| strength | 0.105 (0.100 to 0.110) | 0.105 (0.100 to 0.110) | +0.000, +0.000 |" in lines


def test_a_training_is_timed_against_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    load("search_step")
    module = load("training")
    command = ["training.py", "--device", "cpu", "--model", "small", "--rounds", "2", "--steps", "2", "--batch", "4"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(tmp_path / "result.json")])
    module.main()
    rates = json.loads((tmp_path / "result.json").read_text())["images_per_second"]
    assert {name: len(values) for name, values in rates.items()} == {"this package": 2, "plain loop": 2}
    assert min(min(values) for values in rates.values()) > 0
    assert "1.00 times the plain loop" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.stress
def test_trainings_of_a_race_are_timed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/race.py"), "--networks", "resnet9-4:grey", "--rounds", "2"]
    subprocess.run([*command, "--epochs", "1", "--json", str(tmp_path / "result.json")], check=True, timeout=600)
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["what"].partition(", ")[2] for row in rows] == [
        "bfloat16 over float32",
        "two of one thread over one of two",
    ]
    for row in rows:
        assert 0 < row["least"] <= row["ratio"] <= row["most"]
        assert row["images_per_second"] > 0


# --- the transform against other libraries ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def augment() -> ModuleType:
    return load("augment")


def test_the_page_shows_what_was_measured() -> None:
    report = load("report")
    documents = [json.loads((ROOT / f"benchmarks/{name}.json").read_text("utf-8")) for name in report.DOCUMENTS]
    assert (ROOT / "docs/benchmarks.md").read_text("utf-8") == report.text(*documents)


def test_the_page_says_which_targets_were_missed() -> None:
    results = {
        "fasteraa_transforms": {"median": 2.0, "ratio": 0.3},
        "torchvision AutoAugment": {"median": 6, "ratio": 1},
    }
    setting: dict[str, Any] = {"processor": "P", "vector_extensions": "V", "python": "3", "versions": {"torch": "2"}}
    rows = [{"name": name, "target": target, "results": results} for name, target in (("a", 0.3), ("b", 0.29))]
    harder = {"fasteraa_transforms, 20 magnitudes": {"median": 2.0, "ratio": 0.3}}
    rows.append({"name": "c", "target": 0.3, "harder": 0.25, "results": results | harder})
    rates = {"fasteraa_transforms": {"median": 9.0}, "no policy": {"median": 10.0}}
    loader = {"setting": setting, "workers": 2, "rounds": 1, "images": 8, "results": rates}
    documents = [{"setting": setting, "rounds": 1, "rows": rows[i : i + 2]} for i in (0, 2)]
    raced = {"what": "w", "images_per_second": 20.0, "of_the_other": 10.4, "ratio": 1.92, "least": 1.9, "most": 2.0}
    race = {"hardware": "H", "torch": "2", "rounds": 7, "rows": [raced]}
    page = load("report").text(documents, [loader], race)
    assert "| a | ≤ 0.30 | 0.300, met |" in page
    assert "| b | ≤ 0.29 | 0.300, **missed** |" in page
    assert "| c | ≤ 0.30; 20 magnitudes ≤ 0.25 | 0.300, met | 0.300, **missed** |" in page
    assert "| fasteraa_transforms | 9.0 | 0.900 |" in page
    assert "| w | 20 | 10 | 1.92 (1.90 to 2.00) |" in page


def test_the_measured_rows_are_those_of_the_benchmark(augment: ModuleType) -> None:
    documents = json.loads((ROOT / "benchmarks/augment.json").read_text("utf-8"))
    assert documents
    for document in documents:
        measured = document["rows"]
        assert [(row["name"], row["target"]) for row in measured] == [(row.name, row.target) for row in augment.ROWS]
        for row in measured:
            assert {augment.OURS, augment.BASE} <= set(row["results"]) <= set(augment.COMPETITORS)


def test_a_processor_is_kept_beside_the_others(augment: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    for name, rows in (("A", 1), ("B", 2), ("A", 3)):
        augment.keep(path, {"setting": {"processor": name, "vector_extensions": "V"}, "rows": rows})
    assert [(each["setting"]["processor"], each["rows"]) for each in json.loads(path.read_text())] == [
        ("B", 2),
        ("A", 3),
    ]


def test_the_harder_policy_has_twenty_magnitudes(augment: ModuleType) -> None:
    policy, harder = ([each for sub in augment.policy(harder=h).sub_policies for (each,) in sub] for h in (False, True))
    assert [each.operation for each in harder] == [each.operation for each in policy]
    magnitudes = [each.magnitude for each in harder if each.magnitude is not None]
    assert len(set(magnitudes)) == len(magnitudes) == 15  # the other five have none
    assert 0 < min(magnitudes) < 0.1 < 0.9 < max(magnitudes) < 1


def test_the_policy_of_the_benchmark(augment: ModuleType) -> None:
    policy = augment.policy()
    assert (len(policy), policy.stages) == (10, 2)
    names = [candidate.operation for sub_policy in policy.sub_policies for (candidate,) in sub_policy]
    assert set(names) == set(OPERATIONS) - {"sample_pairing"}
    probabilities = [candidate.probability for sub_policy in policy.sub_policies for (candidate,) in sub_policy]
    torchvision = [
        probability
        for policy_name in AutoAugmentPolicy
        if policy_name is not AutoAugmentPolicy.SVHN
        for sub_policy in AutoAugment(policy_name)._policies
        for _, probability, _ in sub_policy
    ]
    mean = sum(torchvision) / len(torchvision)
    assert sum(probabilities) / len(probabilities) >= mean  # so that ours has no less to do


def test_it_measures_and_writes(
    augment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    row = augment.Row(8, "tensor", 1, 0.2, 0.4)
    monkeypatch.setattr(
        augment, "ROWS", (row, augment.Row(8, "PIL", 1, 0.2, 0.4), augment.Row(8, "batch", 3, 0.2, 0.4))
    )
    monkeypatch.setattr(augment, "DISTINCT", {8: 4})
    monkeypatch.setattr(augment, "BLOCK_SECONDS", 1e-4)
    monkeypatch.setattr(
        augment, "COMPETITORS", {name: augment.COMPETITORS[name] for name in (augment.OURS, augment.BASE)}
    )
    monkeypatch.setattr(sys, "argv", ["augment.py", "--rounds", "2", "--json", str(tmp_path / "result.json")])
    augment.main()
    (document,) = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert [row["name"] for row in document["rows"]] == ["8×8 tensor", "8×8 PIL", "batch 3×3×8×8"]
    for row in document["rows"]:
        assert row["results"][augment.BASE]["ratio"] == 1
        assert 0 < row["results"][augment.OURS]["low"] <= row["results"][augment.OURS]["high"]
    assert capsys.readouterr().out.count("ratio to torchvision AutoAugment (hold to 0.20, 20 magnitudes to 0.40)") == 3


def test_decoded_images_are_the_same_for_every_library(augment: ModuleType, tmp_path: Path) -> None:
    variants = load("loader").decoded(tmp_path, 3)
    assert {augment.OURS, augment.HARDER, augment.BASE, "no policy"} <= set(variants)
    expected = augment.photographs(224, 3)
    for name, variant in variants.items():
        found = torch.stack([variant[n] for n in range(3)])
        assert found.dtype == torch.uint8
        assert found.shape == ((3, 224, 224, 3) if name.startswith("albumentations") else (3, 3, 224, 224)), name
    assert torch.equal(torch.stack([variants["no policy"][n] for n in range(3)]), expected)


# --- comparison of policies -------------------------------------------------------------------------------------------


def test_intervals(comparison: ModuleType) -> None:
    """Against the textbook: mean 2.5, deviation 1.291, t = 3.182 for 3 degrees of freedom."""
    assert comparison.interval([1, 2, 3, 4]) == "+2.5 [+0.4, +4.6]"
    assert comparison.interval([-1.0, -1.0, -1.0]) == "-1.0 [-1.0, -1.0]"
    assert comparison.interval([0.25]) == "+0.2"


def test_the_table_pairs_by_seed(comparison: ModuleType) -> None:
    errors = {"none": (0.10, 0.20), "random, fresh": (0.12, 0.26), "TrivialAugment": (0.08, 0.18), "mine": (0.09, 0.19)}
    rows = [
        {"count": 60, "seed": seed, "arm": name, "error": [each[seed]], "strength": 0.1 + seed / 10}
        for seed in (0, 1)
        for name, each in errors.items()
    ]
    unfinished = {"count": 60, "seed": 2, "arm": "none", "error": [0.9]}
    lines = comparison.table([*rows, unfinished], 60)
    assert lines[0].startswith("60 images, 2 seeds, 1 networks each.")
    (mine,) = (line for line in lines if line.startswith("| mine "))
    cells = [cell.strip() for cell in mine.strip("|").split("|")]
    assert cells[:3] == ["mine", "14.0 ± 7.1", "-1.0 [-1.0, -1.0]"]
    assert cells[4] == "+1.0 [+1.0, +1.0]"
    assert cells[5] == "0.150"


def test_the_comparison_runs_and_resumes(
    comparison: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    sizes = {"images": 60, "test-images": 50, "seeds": 1, "steps": 6, "network-steps": 3, "classifier-steps": 2}
    default = comparison.DEFAULT
    arms = ["none", "TrivialAugment", "random, fresh", "paper", default, "default, held at 0.5"]
    command = ["run.py", "digits", "--out", str(out), "--work", str(tmp_path / "work")]
    command += [f"--{name}={value}" for name, value in sizes.items()]
    monkeypatch.setattr(sys, "argv", [*command, "--arms", *arms])
    comparison.main()
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == arms
    assert all(0 < row["error"][0] <= 1 for row in rows)
    by_arm = {row["arm"]: row for row in rows}
    assert "drift" not in by_arm["none"]
    assert by_arm["paper"]["drift"] > 0
    assert by_arm[default]["strength"] > 0
    folder = tmp_path / "work" / "digits-60-0"
    assert {path.stem for path in folder.glob("strength-*")} == {"strength-1", "strength-0.5", "strength-0.25"}
    report = (out / "README.md").read_text()
    assert report.count("| paper |") == 1

    capsys.readouterr()
    comparison.main()  # all of it is there
    assert [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()] == rows
    assert capsys.readouterr().out.strip() == report.strip()


@pytest.mark.slow
def test_of_masks_a_sampled_selection_has_the_gradient_of_the_loss_and_the_sum_has_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", "--images", "300", "--epochs", "10", "--draws", "20"])
    experiment("mask_gradient").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:19]] == list(OPERATIONS)
    summed, sampled = (float(line.split()[-1]) for line in lines[-2:])
    assert sampled > 0.8
    assert summed < 0.5


def test_sampling_applies_what_it_says_it_drew(remedies: ModuleType) -> None:
    policy = remedies.start(0, ("invert",))
    with torch.no_grad():
        policy.probabilities[:] = 0.25
    images = torch.rand(200, 1, 4, 4)
    changed, log_probability = policy.sample(images, torch.Generator().manual_seed(0))
    once = torch.isclose(changed, 1 - images).all((1, 2, 3))
    assert (once | torch.isclose(changed, images).all((1, 2, 3))).all()  # inverted twice, it is as it was
    assert log_probability[once].exp().tolist() == pytest.approx([0.25 * 0.75] * int(once.sum()))
    unlike = log_probability[~once].exp()
    assert all(min(abs(p - 0.0625), abs(p - 0.5625)) < 1e-6 for p in unlike.tolist())
    assert 0.25 < once.float().mean() < 0.5  # 0.375


@pytest.mark.parametrize("loss", ["density", "adversarial"])
def test_other_losses_move_the_uniform_policy(remedies: ModuleType, loss: str) -> None:
    data = load_images(Digits(), num_images=60, size=(32, 32))
    policy, found = remedies.search_by(loss, data, Crop((32, 32), 4), steps=6, seed=0, teacher_steps=2)
    assert found["drift"] > 0
    assert 0.9 < found["entropy"] < 1
    assert len(policy) == 10


def test_the_other_ways_run_and_resume(
    remedies: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = ["none", "uniform, colour", "gradient", "matched"]
    # 450 steps of the search are those of another test.
    search = remedies.search
    short = {"epochs": 1, "classifier_epochs": 0}
    settings: list[Settings] = []

    def short_search(samples: Any, given: Settings, **options: Any) -> Policy:
        settings.append(given)
        return search(samples, dataclasses.replace(given, **short), **options)

    monkeypatch.setattr(remedies, "search", short_search)
    command = ["run.py", "digits", "--out", str(tmp_path), "--images=60", "--network-steps=3"]
    monkeypatch.setattr(sys, "argv", [*command, "--matching-steps=3", "--seeds", "0", "--arms", *names])
    try:
        remedies.main()
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        assert [row["arm"] for row in rows] == names
        assert all(0 < row["error"] <= 1 for row in rows)
        assert [each.objective for each in settings] == ["gradient-matching"]
        assert set(rows[3]["along"]) == set(OPERATIONS)
        capsys.readouterr()
        remedies.main()  # all of it is there
    finally:
        torch.set_flush_denormal(False)
    assert not capsys.readouterr().out
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(names)


# --- improvements of the adversarial search ---------------------------------------------------------------------------


def test_each_improvement_is_searched_and_tested_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = experiment("adversarial")
    monkeypatch.setattr(module, "ROWS", tmp_path / "rows.jsonl")
    sizes = "--images 150 --epochs 1 --network resnet9-4 --longest 8 --seeds 1 --replicates 1 --device cpu"
    monkeypatch.setattr(sys, "argv", ["run.py", *sizes.split()])
    settings: list[Settings] = []
    adversarial = module.adversarial

    def watched(task: Any, given: Settings, *others: Any) -> Any:
        settings.append(given)
        return adversarial(task, given, *others)

    monkeypatch.setattr(module, "adversarial", watched)
    module.main()
    assert [
        {name: value for name, value in vars(given).items() if value != vars(settings[0])[name]} for given in settings
    ] == list(module.VARIANTS.values())
    done = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in done].count("length") == 1
    assert [row["variant"] for row in done if row["kind"] == "test"] == [*module.CONTROLS, *module.VARIANTS]
    found = [str(row["policy"]["sub_policies"]) for row in done if row["kind"] == "search"]
    assert len(set(found)) == len(found) == 1 + len(module.VARIANTS)
    printed = capsys.readouterr().out
    assert printed.count("| penalty every 4 | 1 | ") == 1
    kept = (tmp_path / "rows.jsonl").read_bytes()
    module.main()
    assert (tmp_path / "rows.jsonl").read_bytes() == kept
    assert capsys.readouterr().out.strip() == printed[printed.index("150 digits") :].strip()


def test_the_table_of_improvements_pairs_seeds_and_replicates() -> None:
    module = experiment("adversarial")
    sizes = {"images": 9, "epochs": 1, "network": "small"}
    errors = {"default": (0.2, 0.1, 0.3), "guard own": (0.1, 0.1, 0.2)}
    done = [
        {"kind": "test", "variant": name, **sizes, "seed": seed, "replicate": replicate, "error": error}
        for name, values in errors.items()
        for (seed, replicate), error in zip(((0, 0), (0, 1), (1, 0)), values, strict=True)
    ]
    done.append({**done[-1], "replicate": 1, "error": 0.9})  # of which the default has no twin
    lines = module.table(done, argparse.Namespace(**sizes))
    (mine,) = (line for line in lines if line.startswith("| guard own |"))
    # Differences of -10, 0 and -10 points: their deviation is 5.77, and 4.303 of it by √3 half of the interval.
    assert [cell.strip() for cell in mine.strip("|").split("|")][1:4] == ["4", "32.50", "-6.67 ± 14.34"]
