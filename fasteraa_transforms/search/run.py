"""One run of a search and the folder it leaves."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms._contact_sheet import contact_sheet
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import diagnosis, pictures
from fasteraa_transforms.search.critic import Critic, fitting_backbone, make_backbone
from fasteraa_transforms.search.data import FOLDER_RECIPE, RECIPES, ImageSet, MapDataset, Recipe, load_images
from fasteraa_transforms.search.loop import STEP_METRICS, Objective, SearchState, batches
from fasteraa_transforms.search.settings import Settings, computes_in_bfloat16, pick_device
from fasteraa_transforms.search.validation import cross_validate


class SearchInterrupted(KeyboardInterrupt):
    """Raised in place of KeyboardInterrupt once the run is left so that it can be resumed."""


def search(
    dataset: MapDataset,
    settings: Settings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    name: str | None = None,
    source: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Policy:
    """Search a policy on a dataset (the paper's Algorithm 2, repaired).

    Args:
        dataset: map-style, samples (image, label); images PIL, arrays [H, W, C], or uint8 or float tensors [C, H, W];
            all of one size, unless ``settings.image_size`` says what to resize to.
        settings: all settings; the defaults if None. ``Settings.paper()`` has the paper's.
        out: folder for ``policy.json``, ``settings.json``, ``metrics.jsonl``, ``diagnosis.json``, TensorBoard events, a
            checkpoint an epoch and pictures; nothing is written if None.
        resume: continue from the checkpoint in ``out``. On the CPU the policy is bit for bit that of an uninterrupted
            run.
        name: of the policy; if it is that of a known dataset (digits, cifar10, …), that dataset's recipe is the
            default of what ``settings`` leaves open. The class's name in lower case if None.
        source: how the dataset was opened, kept in ``settings.json`` for whoever resumes the run.
        progress: whether to show a progress bar and print the verdict.

    Returns:
        The policy found. Its provenance holds data, settings, versions, hardware, time, final losses, and the
        diagnosis.

    Raises:
        ValueError: unusable images or settings; or, on resuming, other settings than the checkpoint's.
        FileExistsError: ``out`` holds a run and ``resume`` is False.
        FileNotFoundError: ``resume`` is True and ``out`` holds no checkpoint.
        SearchInterrupted: on Ctrl-C, a KeyboardInterrupt; ``out`` can be resumed.

    Example:
        >>> from fasteraa_transforms.search import Digits, Settings, search
        >>> policy = search(Digits(), Settings.paper(epochs=1, num_images=256), progress=False)
        >>> len(policy), policy.stages
        (10, 2)
    """
    settings = settings or Settings()
    name = type(dataset).__name__.lower() if name is None else name
    recipe = resolve(settings, RECIPES.get(name, FOLDER_RECIPE))
    folder = None if out is None else RunFolder(Path(out))
    if folder is not None:
        folder.prepare(settings, resume=resume)
    device = pick_device(settings.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # seeding the run must not seed the caller
        torch.default_generator.manual_seed(settings.seed)  # torch.manual_seed would seed all devices, for good
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(settings.seed)
        return _Run(dataset, settings, recipe, folder, name, source, progress, device).finish(resume)


def resolve(settings: Settings, recipe: Recipe) -> Recipe:
    """``recipe`` with what ``settings`` says otherwise."""
    chosen: dict[str, Any] = {
        field: value
        for field in ("num_images", "padding", "flip", "critic")
        if (value := getattr(settings, field)) is not None
    }
    if settings.image_size is not None:
        chosen["image_size"] = (settings.image_size, settings.image_size)
    return dataclasses.replace(recipe, **chosen)


def _held_size(recipe: Recipe) -> tuple[int, int] | None:
    if recipe.image_size is None:
        return None
    height, width = recipe.image_size
    return height + recipe.margin, width + recipe.margin


class RunFolder:
    """The files of a run. What is replaced is replaced whole: a crash leaves the old file or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.settings = path / "settings.json"
        self.policy = path / "policy.json"
        self.metrics = path / "metrics.jsonl"

    def prepare(self, settings: Settings, *, resume: bool) -> None:
        """Make the folder, or check that it holds a run of these settings to resume."""
        if resume:
            if not self.checkpoint.is_file():
                raise FileNotFoundError(f"{self.path} holds no checkpoint to resume from")
            if (found := self.load_settings()) != settings:
                raise ValueError(f"{self.path} was run with {found}, which is not {settings}; resume with the same")
            return
        if self.checkpoint.exists() or self.policy.exists():
            raise FileExistsError(f"{self.path} holds a run already; resume it, or choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)

    def load_settings(self) -> Settings:
        """The settings of the run in the folder."""
        fields = json.loads(self.settings.read_text())["settings"]
        # Runs of a time before the strength could be held are the paper's.
        tuples = {name: tuple(fields[name]) for name in ("betas", "strengths") if name in fields}
        return Settings.paper(**{**fields, **tuples})

    def replace(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write ``path`` through ``write`` to a temporary file that then takes its place."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def replace_json(self, path: Path, value: object) -> None:
        """Write ``value`` as JSON in the place of ``path``."""
        self.replace(path, lambda file: file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n"))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to ``metrics.jsonl``."""
        with self.metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def forget_after(self, epoch: int) -> None:
        """Drop the rows of epochs that the checkpoint does not know; a crash can leave them, the last one torn."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if row["epoch"] <= epoch:
                kept.append(line + "\n")
        self.replace(self.metrics, lambda file: file.write_text("".join(kept)))


class _Run:
    """The state of one call of `search`."""

    def __init__(
        self,
        dataset: MapDataset,
        settings: Settings,
        recipe: Recipe,
        folder: RunFolder | None,
        name: str,
        source: Mapping[str, str] | None,
        progress: bool,
        device: torch.device,
    ) -> None:
        self.settings, self.recipe, self.folder, self.progress = settings, recipe, folder, progress
        self.name, self.source = name, dict(source or {})
        loaded = load_images(
            dataset,
            num_images=recipe.num_images,
            num_classes=recipe.num_classes,
            size=_held_size(recipe),
            seed=settings.seed,
        )
        if len(loaded.images) < settings.batch_size:
            raise ValueError(
                f"batch_size is {settings.batch_size}, but there are {len(loaded.images)} images; lower it"
            )
        self.data = ImageSet(loaded.images.to(device), loaded.labels.to(device), loaded.classes)
        channels, height, width = loaded.images.shape[1:]
        self.size = recipe.image_size or (height, width)
        self.probe = loaded.images[:512, :, : self.size[0], : self.size[1]]  # whose displacement is the strength

        backbone = recipe.critic or fitting_backbone(self.size)
        self.recipe = dataclasses.replace(recipe, critic=backbone)

        pixels = loaded.images.transpose(0, 1).flatten(1).double() / 255
        auto = settings.precision == "auto"
        fast = backbone in ("wrn40_2", "resnet50") and computes_in_bfloat16(device)
        bfloat16 = fast if auto else settings.precision == "bfloat16"
        self.objective = Objective(
            mean=pixels.mean(1).float().to(device),
            std=pixels.std(1).clamp(min=1e-3).float().to(device),
            classification_weight=settings.classification_weight,
            gradient_penalty_weight=settings.gradient_penalty_weight,
            chunk_size=settings.chunk_size,
            precision=torch.bfloat16 if bfloat16 else torch.float32,
            multiplier_rate=settings.multiplier_rate,
        )
        policy = RelaxedPolicy(
            settings.sub_policies,
            settings.stages,
            temperature=settings.temperature,
            selection_temperature=settings.selection_temperature,
            generator=torch.Generator().manual_seed(settings.seed),
        )
        self.start = RelaxedPolicy(
            settings.sub_policies, settings.stages, selection_temperature=settings.selection_temperature
        )
        self.start.load_state_dict(policy.state_dict())
        self.yardstick = diagnosis.random_distance(self.start)
        policy = policy.to(device)
        critic = Critic(make_backbone(backbone, channels), classes=loaded.classes, image_shape=(channels, *self.size))
        critic = critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.state = SearchState(
            policy=policy,
            critic=critic,
            policy_optimizer=_adam(policy, settings.policy_learning_rate, settings.betas),
            critic_optimizer=_adam(critic, settings.critic_learning_rate, settings.betas),
            generator=torch.Generator(device).manual_seed(settings.seed),
            multiplier=torch.zeros((), device=device),
        )
        self.strength_start = diagnosis.strength(self.start.to_policy(prune=settings.prune), self.probe)
        self.seconds = 0.0
        self.last_epoch: dict[str, Any] = {}
        self.classifier: dict[str, float] | None = None  # loss and accuracy at the end of its own training
        self.found: list[dict[str, Any]] = []  # of each strength that is done: the policy, and the last epoch's means
        self.trials: tuple[diagnosis.Trial, ...] = ()

    def finish(self, resume: bool) -> Policy:
        settings, folder, state = self.settings, self.folder, self.state
        if resume and folder is not None:
            saved = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
            state.load_state_dict(saved["state"])
            self.start.load_state_dict(saved["start"])
            self.seconds, self.last_epoch = saved["seconds"], saved["last_epoch"]
            self.classifier, self.found = saved["classifier"], saved["found"]
            self.trials = tuple(diagnosis.Trial(**trial) for trial in saved["trials"])
            folder.forget_after(state.epoch)
        elif folder is not None:
            resolved = {
                "settings": dataclasses.asdict(settings),
                "recipe": dataclasses.asdict(self.recipe),
                "dataset": self.name,
                "source": self.source,
                "precision": str(self.objective.precision),
                "device": str(self.data.images.device),
            }
            folder.replace_json(folder.settings, resolved)
            folder.append([self._epoch_row({})])
            self._save()
        writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            steps_done = state.epoch * self.steps_per_epoch
            writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=steps_done + 1 if resume else None)
        try:
            if settings.classifier_epochs and self.classifier is None:
                self._train_classifier()
            while state.epoch < settings.epochs:
                self._epoch(writer)
            if settings.strengths and not self.trials:
                self._choose()
        except KeyboardInterrupt as interrupt:
            where = f"in epoch {state.epoch + 1} of {settings.epochs}"
            if folder is None:
                raise SearchInterrupted(
                    f"interrupted {where}; nothing was kept, since no folder was given"
                ) from interrupt
            raise SearchInterrupted(
                f"interrupted {where}; {folder.path} keeps {state.epoch} whole epochs. Continue with\n"
                f"    python -m fasteraa_transforms.search --resume {folder.path}"
            ) from interrupt
        finally:
            if writer is not None:
                writer.close()
        return self._report()

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.images) // self.settings.batch_size

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(
            self.data,
            self.settings.batch_size,
            size=self.size,
            padding=self.recipe.padding,
            flip=self.recipe.flip,
            generator=self.state.generator,
        )

    def _train_classifier(self) -> None:
        """Let the classifier learn the classes before it guards them."""
        began = time.perf_counter()
        measured: list[Tensor] = []
        for _ in range(self.settings.classifier_epochs):
            measured = [self.objective.classify(self.state, *batch) for batch in self._batches()]
        loss, accuracy = torch.stack(measured).mean(0).tolist()
        self.classifier = {"loss": loss, "accuracy": accuracy}
        self.seconds += time.perf_counter() - began
        if self.folder is not None:
            self._save()

    def _fraction(self, epoch: int) -> float | None:
        """The strength that an epoch, counted from 0, is held at, as a fraction of the start's."""
        held = self.settings.held
        return held[epoch * len(held) // self.settings.epochs] if held else None

    def _choose(self) -> None:
        """Keep the policy of the strength that held-out images prefer."""
        began = time.perf_counter()
        settings, policy = self.settings, self.state.policy
        found = list(zip(settings.held, self.found, strict=True))
        if 0 in settings.strengths:
            nothing = {**self.found[-1]["policy"], "probabilities": torch.zeros_like(policy.probabilities)}
            found.append((0.0, {"policy": nothing, "last_epoch": self.last_epoch}))
        trials = []
        for fraction, each in found:
            policy.load_state_dict(each["policy"])
            exact = policy.to_policy(prune=settings.prune)
            error, loss = cross_validate(
                exact if fraction else None,
                self.data,
                size=self.size,
                padding=self.recipe.padding,
                flip=self.recipe.flip,
                epochs=settings.validation_epochs,
                seed=settings.seed,
            )
            strength = diagnosis.strength(exact, self.probe)
            trials.append(diagnosis.Trial(fraction, fraction * self.strength_start, strength, error, loss))
        best = min(range(len(trials)), key=lambda i: trials[i].loss)
        self.trials = tuple(dataclasses.replace(trial, chosen=i == best) for i, trial in enumerate(trials))
        policy.load_state_dict(found[best][1]["policy"])
        self.last_epoch = found[best][1]["last_epoch"]
        self.seconds += time.perf_counter() - began
        if self.folder is not None:
            self._save()

    def _epoch(self, writer: Any) -> None:
        from tqdm import tqdm

        settings, state = self.settings, self.state
        began = time.perf_counter()
        on_cpu = self.data.images.device.type == "cpu"
        measured: list[Tensor] = []
        fraction = self._fraction(state.epoch)
        target = None if fraction is None else fraction * self.strength_start
        objective = dataclasses.replace(self.objective, target=target)
        done = state.epoch * self.steps_per_epoch
        with tqdm(
            total=settings.epochs * self.steps_per_epoch,
            initial=done,
            desc=f"epoch {state.epoch + 1}/{settings.epochs}",
            disable=not self.progress,
            unit="step",
            leave=state.epoch + 1 == settings.epochs,
        ) as bar:
            for images, labels in self._batches():
                measured.append(objective.step(state, images, labels))
                bar.update()
                if on_cpu:  # on an accelerator, reading a value would wait for it
                    bar.set_postfix(_postfix(measured[-1]), refresh=False)
            values = torch.stack(measured).cpu()
            bar.set_postfix(_postfix(values[-1]))
        state.epoch += 1
        self.seconds += time.perf_counter() - began
        rows: list[dict[str, Any]] = [
            {"kind": "step", "epoch": state.epoch, "step": done + i + 1}
            | dict(zip(STEP_METRICS, row.tolist(), strict=True))
            for i, row in enumerate(values)
        ]
        self.last_epoch = dict(zip(STEP_METRICS, values.mean(0).tolist(), strict=True))
        if settings.held and (state.epoch == settings.epochs or self._fraction(state.epoch) != fraction):
            policy = {name: value.detach().clone() for name, value in state.policy.state_dict().items()}
            self.found.append({"policy": policy, "last_epoch": self.last_epoch})
        rows.append(self._epoch_row(self.last_epoch))
        if self.folder is not None:
            self.folder.append(rows)
            for row in rows:
                prefix = "epoch" if row["kind"] == "epoch" else "step"
                for key, value in row.items():
                    if isinstance(value, float):
                        writer.add_scalar(f"{prefix}/{key}", value, row["step"])
            for key, value in rows[-1]["share"].items():
                writer.add_scalar(f"share/{key}", value, rows[-1]["step"])
            self._save()

    def _epoch_row(self, means: dict[str, float]) -> dict[str, Any]:
        found = self._diagnose()
        return {
            "kind": "epoch",
            "epoch": self.state.epoch,
            "step": self.state.epoch * self.steps_per_epoch,
            "seconds": self.seconds,
            **means,
            "strength": found.strength_end,
            "drift": found.drift,
            "entropy": found.entropy_end,
            "share": found.share_end,
        }

    def _diagnose(self) -> diagnosis.Diagnosis:
        policy, start = self.state.policy, self.start
        distance = diagnosis.Distance.between(policy, start)
        fractions = [
            moved / whole
            for field in ("selection", "probability", "magnitude")
            if (whole := getattr(self.yardstick, field)) > 0
            for moved in (getattr(distance, field),)
        ]
        return diagnosis.Diagnosis(
            drift=sum(fractions) / len(fractions),
            distance=distance,
            strength_start=self.strength_start,
            strength_end=diagnosis.strength(policy.to_policy(prune=self.settings.prune), self.probe),
            entropy_start=diagnosis.selection_entropy(start),
            entropy_end=diagnosis.selection_entropy(policy),
            share_start=diagnosis.effective_share(start),
            share_end=diagnosis.effective_share(policy),
            accuracy_clean=self.last_epoch.get("accuracy_real", 0.0),
            accuracy_augmented=self.last_epoch.get("accuracy_augmented", 0.0),
            chance=1 / self.data.classes,
            accuracy_classifier=self.classifier and self.classifier["accuracy"],
            trials=self.trials,
        )

    def _policy(self, found: diagnosis.Diagnosis) -> Policy:
        device = self.data.images.device
        provenance: dict[str, object] = {
            "dataset": self.name,
            "images": len(self.data.images),
            "settings": dataclasses.asdict(self.settings) | {"betas": list(self.settings.betas)},
            "recipe": json.loads(json.dumps(dataclasses.asdict(self.recipe))),
            "precision": str(self.objective.precision).removeprefix("torch."),
            "epochs": self.state.epoch,
            "steps": self.state.epoch * self.steps_per_epoch,
            "seconds": round(self.seconds, 1),
            "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
            "last_epoch": self.last_epoch,
            "diagnosis": dataclasses.asdict(found),
        }
        return self.state.policy.to_policy(self.name, prune=self.settings.prune, provenance=provenance)

    def _save(self) -> None:
        """Write policy and checkpoint, each replaced whole."""
        assert self.folder is not None
        self._policy(self._diagnose()).save(self.folder.policy)
        saved = {
            "state": self.state.state_dict(),
            "start": self.start.state_dict(),
            "seconds": self.seconds,
            "last_epoch": self.last_epoch,
            "classifier": self.classifier,
            "found": self.found,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }
        self.folder.replace(self.folder.checkpoint, lambda file: torch.save(saved, file))

    def _report(self) -> Policy:
        found = self._diagnose()
        policy = self._policy(found)
        if self.folder is not None:
            verdict = {"verdict": found.verdict().splitlines()}
            self.folder.replace_json(self.folder.path / "diagnosis.json", dataclasses.asdict(found) | verdict)
            pictures.curves(self.folder.rows(), self.folder.path / "curves.png")
            if self.data.images.shape[1] in (1, 3):
                sheet = contact_sheet(policy, self.probe[:8])
                sheet.save(self.folder.path / "contact_sheet.png")
        if self.progress:
            print(found.verdict())
        return policy


def _adam(module: torch.nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    # Floats, whatever a user's settings hold: PyTorch 2.15 refuses a mixture with whole numbers.
    return torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(float(betas[0]), float(betas[1])), fused=True)


def _postfix(values: Tensor) -> dict[str, str]:
    measured = dict(zip(STEP_METRICS, values.tolist(), strict=True))
    return {
        "loss": f"{measured['critic_loss']:.2f}",
        "wasserstein": f"{measured['wasserstein']:.2f}",
        "accuracy": f"{measured['accuracy_real']:.0%}",
    }


def _processor() -> str:
    """Model name of the processor, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()
