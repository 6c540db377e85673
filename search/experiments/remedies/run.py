"""Other ways to a policy, and what small networks make of what they find. Can be resumed.

    python search/experiments/remedies/run.py digits --out search/experiments/remedies/digits
    python search/experiments/remedies/run.py cifar10 --images 1000 --network-steps 2000 --matching-steps 1000 \\
        --data-dir data --out search/experiments/remedies/cifar10

For each seed a subset is drawn, to search and train on, and other images for the test; of CIFAR-10 both from the
training split. Each arm makes a policy of the subset and trains one network `small` with it, with the same start, order
and crops. The arms:

- none, TrivialAugment, a random policy, and the random start of the default search;
- uniform policies: the operations of a group alike, each stage with one probability, magnitudes 0.1 to 0.9; and those
  that the default search tries, with the magnitudes of its start;
- *searched*: what the default search finds in 450 steps with the small critic, held at the strength of its start;
- *density*: as Fast AutoAugment (Lim et al. 2019), the policy lowers the cross entropy of augmented images that the
  classifier has not been trained on, with the strength held at 0.1;
- *adversarial*: as TeachAugment (Suzuki 2022), it lowers the same and raises that of a student trained with it;
- *gradient*: as Deep AutoAugment (Zheng et al. 2022), it turns the gradient of augmented images towards that of
  held-out ones: the search with `--objective gradient-matching`, else as *searched*;
- *matched*: by that gradient of the last layer, too, but once: networks are trained with the uniform policy, and the
  eight operations whose gradient goes furthest along that of held-out images are kept, all alike.

Density and adversarial sample an operation in each stage, as the exported policy does, in place of the relaxed
policy's sum of all: magnitudes have their own gradient, choices and probabilities that of the score function.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from fasteraa_transforms import Policy, RelaxedPolicy, functional
from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.relaxed import Draw
from fasteraa_transforms.search import Settings, load_images, open_dataset, search
from fasteraa_transforms.search.algorithm import diagnosis
from fasteraa_transforms.search.contenders.uniform import GROUPS
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.networks.fit import Fit, Recipe, fit
from fasteraa_transforms.search.networks.table import make_network

SIZE = (32, 32)
MAGNITUDES = (0.1, 0.3, 0.5, 0.7, 0.9)
BATCH = 64
FOLDS = 3
KEPT = 8
"""Operations that *matched* keeps."""


def trivial_augment(images: Tensor) -> Tensor:
    """TrivialAugment, with a draw for each image; on a batch torchvision has one draw for all."""
    transform = v2.TrivialAugmentWide()
    return torch.stack([transform(image) for image in images])


def uniform(operations: tuple[str, ...], probability: float = 0.5) -> Policy:
    """Two stages of the operations, all alike, at several magnitudes."""
    stage: list[dict[str, Any]] = []
    for name in operations:
        if OPERATIONS[name].has_magnitude:
            common = {"operation": name, "weight": 1 / len(MAGNITUDES), "probability": probability}
            stage += [{**common, "magnitude": magnitude} for magnitude in MAGNITUDES]
        else:
            stage.append({"operation": name, "weight": 1.0, "probability": probability})
    return Policy([[stage] * 2])


def start(seed: int, operations: tuple[str, ...] | None) -> "Sampled":
    """The start of a search: random as the default's, or uniform over ``operations``."""
    policy = Sampled(selection_temperature=1.0, generator=torch.Generator().manual_seed(seed))
    if operations is not None:
        outside = torch.tensor([name not in operations for name in policy.operations])
        with torch.no_grad():
            policy.weights.zero_().masked_fill_(outside, -torch.inf)
            policy.probabilities.fill_(0.5)
    return policy


class Sampled(RelaxedPolicy):
    """Applies the operations that are drawn, as the exported policy does."""

    def sample(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented images [B, C, H, W] and the log probability [B] of what was drawn for each."""
        draw: Draw = self.draw(len(images), generator=generator)
        gate = torch.rand(len(images), self.weights.shape[1], generator=generator)
        choice = (self.weights / self.selection_temperature).log_softmax(-1)[draw.sub_policy]
        probability = self.probabilities[draw.sub_policy].clamp(0.02, 0.98)
        magnitude = draw.sign * self.magnitudes[draw.sub_policy]
        result, log_probability = images, torch.zeros(len(images))
        for k in range(self.weights.shape[1]):
            drawn = torch.multinomial(choice[:, k].detach().exp(), 1)  # [B, 1]
            p = probability[:, k].gather(1, drawn).squeeze(1)
            on = gate[:, k] < p
            log_probability = log_probability + choice[:, k].gather(1, drawn).squeeze(1)
            log_probability = log_probability + torch.where(on, p, 1 - p).log()
            changed = result * ~on[:, None, None, None]
            for n, name in enumerate(self.operations):
                index = ((drawn.squeeze(1) == n) & on).nonzero().squeeze(1)
                if not len(index):
                    continue
                takes = {
                    "interpolation": self.interpolation,
                    "fill": self.fill,
                    "centre": draw.centre[index, k],
                    "partner": images[draw.partner[index, k]],
                }
                keywords = {key: takes[key] for key in OPERATIONS[name].takes}
                output = functional.apply_operation(name, result[index], magnitude[index, k, n], **keywords)
                changed = changed.index_add(0, index, output)
            result = changed
        return result, log_probability


def train(data: ImageSet, augment: Any, crop: Crop, *, steps: int, seed: int) -> Fit:
    """Train the small network on batches of 50, for at least so many steps.

    Args:
        data: images and labels to train on.
        augment: a policy, an augmentation of uint8 [B, C, H, W], or None.
        crop: the preprocessing after it.
        steps: of training, rounded up to whole passes.
        seed: of all draws.
    """
    batch_size = min(50, len(data))
    recipe = Recipe.of("small", epochs=-(-steps // (len(data) // batch_size)), batch_size=batch_size)
    made = augment if augment is None or isinstance(augment, Policy) else lambda generator: augment
    with torch.random.fork_rng(devices=[]):
        training = Fit(data, lambda: network_for(data), recipe, crop, augment=made, seed=seed)
        fit(training)
    return training


def network_for(data: ImageSet) -> nn.Module:
    """A small network with new weights."""
    return make_network("small", channels=data.images.shape[1], classes=data.classes)


def last_layer(network: nn.Module, data: ImageSet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B, F] and logits [B, classes] of images in [0, 1], normalised as those of ``data``."""
    backbone, head = network
    mean, std = (torch.tensor(each)[:, None, None] for each in data.statistics())
    features = backbone(((images - mean) / std).contiguous(memory_format=torch.channels_last))
    return features, head(features)


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the cross entropy w.r.t. the logits."""
    return logits.softmax(1) - F.one_hot(labels, logits.shape[1])


def searched(
    data: ImageSet, crop: Crop, seed: int, options: argparse.Namespace, objective: str = "wasserstein"
) -> Policy:
    """The policy of the adversarial search, or of another objective, held at the strength of its start."""
    batch_size = 128 if len(data.images) >= 1000 else 50
    per_epoch = len(data.images) // batch_size
    settings = Settings(
        contenders=(),
        critic="small",
        batch_size=batch_size,
        epochs=-(-450 // per_epoch),
        classifier_epochs=-(-400 // per_epoch),
        strengths=(1.0,),
        objective=objective,
        image_size=SIZE[0],
        padding=crop.padding,
        flip=crop.flip,
        seed=seed,
        device="cpu",
    )
    samples = list(zip(data.images, data.labels.tolist(), strict=True))
    return search(samples, settings, name=options.dataset, progress=False)


def search_by(
    loss: str,
    data: ImageSet,
    crop: Crop,
    *,
    steps: int,
    seed: int,
    teacher_steps: int = 500,
) -> tuple[Policy, dict[str, Any]]:
    """Search from the uniform policy by one of the losses density and adversarial.

    Images are in three folds that take turns: one is held out of the training of teacher and student of its turn.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    folds = torch.randperm(len(data.images), generator=generator).tensor_split(FOLDS)
    others = [torch.cat([fold for j, fold in enumerate(folds) if j != i]) for i in range(FOLDS)]
    policy, begin = start(seed, GROUPS["all"]), start(seed, GROUPS["all"])
    optimizer = torch.optim.Adam(policy.parameters(), 0.02, betas=(0.0, 0.999))
    parts = [data.subset(rest) for rest in others]
    teachers = [train(part, None, crop, steps=teacher_steps, seed=seed + i).network for i, part in enumerate(parts)]
    for teacher in teachers:
        teacher.requires_grad_(False)
    students = [] if loss == "density" else [network_for(data) for _ in range(FOLDS)]
    learners = [torch.optim.Adam(student.parameters(), 3e-3) for student in students]
    multiplier = torch.zeros(())

    def take(among: Tensor, count: int) -> tuple[Tensor, Tensor]:
        index = among[torch.randint(len(among), (count,), generator=generator)]
        return crop(data.images[index], generator=generator).float() / 255, data.labels[index]

    for step in range(steps):
        k = step % FOLDS
        images, labels = take(folds[k], BATCH)
        augmented, log_probability = policy.sample(images, generator)
        each = F.cross_entropy(last_layer(teachers[k], parts[k], augmented)[1], labels, reduction="none")
        if students:
            student = students[k].eval()
            each = each - F.cross_entropy(last_layer(student, data, augmented)[1], labels, reduction="none")
        else:
            moved = (augmented - images).abs().mean((1, 2, 3))
            shortfall = 1 - moved.detach().mean() / 0.1
            each = each - (multiplier + shortfall).clamp(min=0) * moved / 0.1
            multiplier = (multiplier + 0.05 * shortfall).clamp(min=0)
        better = each.detach() - each.detach().mean()
        scale = better.std().clamp(min=1e-6)
        optimizer.zero_grad()
        ((better / scale * log_probability).mean() + each.mean() / scale).backward()
        optimizer.step()
        policy.project_()
        if students:
            images, labels = take(others[k], BATCH)  # not the images of the fold, which stay unseen
            with torch.no_grad():
                augmented, _ = policy.sample(images, generator)
            learned = F.cross_entropy(last_layer(students[k].train(), data, augmented)[1], labels)
            learners[k].zero_grad()
            learned.backward()
            learners[k].step()

    distance, yardstick = diagnosis.Distance.between(policy, begin), diagnosis.random_distance(begin)
    fields = ("selection", "probability", "magnitude")
    drift = sum(getattr(distance, each) / getattr(yardstick, each) for each in fields) / len(fields)
    found = {
        "drift": drift,
        "entropy": diagnosis.selection_entropy(policy),
        "share": diagnosis.effective_share(policy),
    }
    return policy.to_policy(loss), found


def matched(data: ImageSet, crop: Crop, *, steps: int, seed: int) -> tuple[Policy, dict[str, Any]]:
    """The operations whose gradient goes along that of held-out images, of networks trained with the uniform policy."""
    along: dict[str, float] = dict.fromkeys(OPERATIONS, 0.0)
    folds = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed)).tensor_split(FOLDS)
    for i, unseen in enumerate(folds):
        rest = torch.cat([fold for j, fold in enumerate(folds) if j != i])
        part = data.subset(rest)
        network = train(part, uniform(GROUPS["all"]), crop, steps=steps, seed=seed + i).network
        with torch.no_grad():
            features, logits = last_layer(network, part, data.images[unseen].float() / 255)
            wanted = residual(logits, data.labels[unseen]).T @ features
            wanted = wanted / wanted.norm()
            images, labels = (
                each[rest[:512]].repeat(8, *[1] * (each.ndim - 1))[:2000] for each in (data.images, data.labels)
            )
            for name in OPERATIONS:
                stage = uniform((name,), 1.0).sub_policies[0][:1]
                plan = Policy([stage]).sample(len(images), generator=torch.Generator().manual_seed(7))
                features, logits = last_layer(network, part, apply(images, plan).float() / 255)
                error = residual(logits, labels)
                length = (error.norm(dim=1) * features.norm(dim=1)).mean()
                along[name] += ((error @ wanted) * features).sum(1).mean().item() / length.item() / FOLDS
    ranked = sorted(along, key=lambda name: -along[name])
    return uniform(tuple(ranked[:KEPT])), {"along": along}


FAINT = ("invert", "solarize", "sample_pairing", "flip")
GROUPS_TRIED = {
    "all": GROUPS["all"],
    "colour": GROUPS["colour"],
    "geometry": GROUPS["geometry"],
    "no geometry": tuple(name for name in OPERATIONS if name not in GROUPS["geometry"]),
    f"no {', '.join(FAINT)}": tuple(name for name in OPERATIONS if name not in FAINT),
}


def arms(data: ImageSet, crop: Crop, seed: int, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Names, and what makes a policy, an augmentation or None; a policy may come with what was found about it."""
    by_loss = {
        loss: lambda loss=loss: search_by(loss, data, crop, steps=300, seed=seed) for loss in ("density", "adversarial")
    }
    return {
        "none": lambda: None,
        "TrivialAugment": lambda: trivial_augment,
        "random": lambda: RelaxedPolicy(generator=torch.Generator().manual_seed(seed + 1000)).to_policy(),
        "start": lambda: start(seed, None).to_policy(),
        "searched": lambda: searched(data, crop, seed, options),
        "start, uniform": lambda: start(seed, GROUPS["all"]).to_policy(),
        "start, uniform colour": lambda: start(seed, GROUPS["colour"]).to_policy(),
        **{f"uniform, {name}": lambda group=group: uniform(group) for name, group in GROUPS_TRIED.items()},
        "uniform, all, 3/4": lambda: uniform(GROUPS["all"], 0.75),
        **by_loss,
        "gradient": lambda: searched(data, crop, seed, options, objective="gradient-matching"),
        "matched": lambda: matched(data, crop, steps=options.matching_steps, seed=seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", choices=["digits", "cifar10"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, default=150, help="of the subset")
    parser.add_argument("--network-steps", type=int, default=600, help="of a network's training")
    parser.add_argument("--matching-steps", type=int, default=600, help="of the networks of the arm matched")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--arms", nargs="+", help="only these; all by default")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # a network that is done has gradients so small that they take twice as long
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "rows.jsonl"
    rows = map(json.loads, kept.read_text().splitlines() if kept.exists() else [])
    done = {(row["images"], row["steps"], row["seed"], row["arm"]) for row in rows}
    recipe = DATASETS[options.dataset].preparation
    crop = Crop(SIZE, recipe.padding, recipe.flip)
    dataset = open_dataset(options.dataset, data_dir=options.data_dir)
    pool_size, tested = (1797, 1600) if options.dataset == "digits" else (9000, 5000)
    for seed in options.seeds:
        pool = load_images(dataset, num_images=pool_size, size=SIZE, seed=seed)
        data = ImageSet(pool.images[: options.images], pool.labels[: options.images], pool.classes)
        test = ImageSet(pool.images[options.images :][-tested:], pool.labels[options.images :][-tested:], pool.classes)
        for name, make in arms(data, crop, seed, options).items():
            key = (options.images, options.network_steps, seed, name)
            if key in done or (options.arms and name not in options.arms):
                continue
            began = time.perf_counter()
            made = make()
            augment, found = made if isinstance(made, tuple) else (made, {})
            row = dict(zip(("images", "steps", "seed", "arm"), key, strict=True)) | found
            if isinstance(augment, Policy):
                row["strength"] = diagnosis.strength(augment, data.images[:512])
            training = train(data, augment, crop, steps=options.network_steps, seed=seed)
            row["error"], row["loss"] = training.test(test)
            row["seconds"] = time.perf_counter() - began
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(options.dataset, *key, f"{100 * row['error']:.2f} %", f"{row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
