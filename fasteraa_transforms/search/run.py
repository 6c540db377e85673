"""The search, as one page."""

import contextlib
import copy
import dataclasses
import os
from collections.abc import Mapping, Sized
from typing import Any

from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.search.algorithm.diagnosis import Diagnosis
from fasteraa_transforms.search.algorithm.loop import adversarial_search, exported
from fasteraa_transforms.search.budget import duration, seconds_of
from fasteraa_transforms.search.contenders.hold import check_settings, hold_contest
from fasteraa_transforms.search.data.samples import Samples
from fasteraa_transforms.search.data.source import consent_flags
from fasteraa_transforms.search.evaluation.affinity import AffinityDiversity
from fasteraa_transforms.search.evaluation.affinity import affinity_and_diversity as measure_affinity_and_diversity
from fasteraa_transforms.search.report import page as report
from fasteraa_transforms.search.report import plots
from fasteraa_transforms.search.report.next_steps import next_steps
from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.defaults import usual_defaults
from fasteraa_transforms.search.runtime.failures import explained, explained_loading
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.runtime.world import join
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import Task, load_task, prepared, seeded
from fasteraa_transforms.search.verdict import kept_policy, leave_pictures, verdict, write_report


def search(
    dataset: Samples,
    settings: Settings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    name: str | None = None,
    source: Mapping[str, Any] | None = None,
    affinity_diversity: bool = False,
    progress: bool = True,
) -> Policy:
    """Find the augmentation that is best for a dataset, and say how sure that is.

    By default contenders race: published augmentations, uniform policies, and policies that are calibrated on the
    images. Networks are trained with each of them and judged by images that they have not seen. With
    ``Settings.paper()``, or without contenders, the paper's adversarial search runs alone (Algorithm 2, repaired).

    Started by torchrun, or where `torch.distributed` has a process group, all processes have to call it alike. They
    share each batch of the adversarial search, each on its own device. Only the first one writes. All return the
    policy. A race takes one process.

    Args:
        dataset: samples (image, label) or (image, mask). A label is a whole number. A mask is a PIL image, array or
            tensor [H, W] of whole numbers. An image is a PIL image, an array [H, W, C], or a uint8, uint16 or float
            tensor [C, H, W]. Large images, and images of several sizes, are resized to ``settings.image_size``, or to a
            size that the search chooses and prints. A dataset that can only be iterated, such as `Shards`, is read
            once.
        settings: all settings; the defaults if None. ``Settings.paper()`` has the paper's.
        out: folder for ``policy.json``, ``settings.json``, ``metrics.jsonl``, ``diagnosis.json``, ``report.html``,
            TensorBoard events, a checkpoint an epoch and pictures; nothing is written if None.
        resume: continue from the checkpoint in ``out``. On the CPU the policy is bit for bit that of an uninterrupted
            run.
        name: of the policy; the dataset's class in lower case if None. The name of a known dataset (digits, cifar10,
            …) also sets the defaults of size, padding, flip and critic.
        source: how the dataset was opened, kept in ``settings.json`` for whoever resumes the run and in the policy's
            provenance; with a ``description``, it says in words which images they are.
        affinity_diversity: whether to measure affinity and diversity of the policy at the end, which trains six small
            networks; see `evaluation.affinity`. Not for masks.
        progress: whether to show a progress bar and print the verdict.

    Returns:
        The policy found. Its provenance holds data, settings, versions, hardware, time, final losses, and the
        diagnosis.

    Raises:
        ValueError: unusable images or settings; on resuming, other settings than the checkpoint's; or, of several
            processes, not all have the same images.
        FileExistsError: ``out`` holds a run and ``resume`` is False.
        FileNotFoundError: ``resume`` is True and ``out`` holds no checkpoint.
        SearchInterrupted: on Ctrl-C, a KeyboardInterrupt; ``out`` can be resumed.
        SearchFailed: out of memory, diverged, ``out`` cannot be written any more, or another process has ended.

    Example:
        >>> from fasteraa_transforms.search import Digits, Settings, search
        >>> policy = search(Digits(), Settings.paper(epochs=1, num_images=256), progress=False)
        >>> len(policy), policy.stages
        (10, 2)
    """
    settings = settings or Settings()
    world = join()
    check_settings(settings)
    name = name or type(dataset).__name__.lower()
    folder = None if out is None else RunFolder(out)
    again = consent_flags(source or {}, dataclasses.asdict(settings))
    again += ["--affinity-diversity"] * affinity_diversity
    with contextlib.ExitStack() as stack:
        stack.enter_context(usual_defaults())
        if folder is not None:
            stack.enter_context(folder.claim(world, resume=resume))
            if world.first:
                folder.prepare(settings, resume=resume)
        recorder = stack.enter_context(Recorder(folder, world=world, resume=resume, progress=progress, again=again))
        with explained_loading(recorder, _fewer(name, settings)), seeded(settings.seed, world.device(settings.device)):
            if settings.contenders and isinstance(dataset, Sized):
                takes = seconds_of(settings.minutes, world.device(settings.device))
                recorder.say(f"{len(dataset):,} samples; loading images and searching take up to {duration(takes)}")
            kept = world.from_first(lambda: _kept_preparation(folder)) if resume else None
            task = load_task(
                dataset,
                settings,
                name=name,
                source=source,
                world=world,
                kept=kept,
                tell=recorder.say,
                watch=recorder.watch,
            )
        recorder.say(task.data.describe())
        if affinity_diversity and task.data.has_masks:
            raise ValueError("affinity_diversity should be False for masks, but got True instead")

        stack.enter_context(world.telling_when_terminated(recorder.left))
        stack.enter_context(explained(recorder, _smaller(task, settings)))
        if settings.contenders:
            return _race(task, settings, recorder, affinity_diversity=affinity_diversity)
        return _adversarial(task, settings, recorder, affinity_diversity=affinity_diversity)


def _adversarial(task: Task, settings: Settings, recorder: Recorder, *, affinity_diversity: bool) -> Policy:
    """Let the adversarial search run alone, as in the paper."""
    result = adversarial_search(task, settings, recorder)
    recorder.doing, recorder.searched = "while writing the report", True
    state, kept = result.state, result.ends[0]
    relaxed = copy.deepcopy(state.policy)
    relaxed.load_state_dict(kept.policy)
    held = None if kept.fraction is None else kept.fraction * result.reference.strength
    found = result.reference.diagnose(relaxed, kept.means, classifier=state.classifier, held=held)
    policy = exported(relaxed, task, settings, state, found, means=kept.means)
    if recorder.folder is not None:
        policy.save(recorder.folder.policy)
        for end in result.ends if settings.strengths else ():
            relaxed.load_state_dict(end.policy)
            exact = relaxed.to_policy(f"{task.name} at {end.fraction:g}", prune=settings.prune)
            exact.save(recorder.folder.path / f"strength-{end.fraction:g}.json")
    return _report(policy, found, task, settings, recorder, affinity_diversity=affinity_diversity)


def _race(task: Task, settings: Settings, recorder: Recorder, *, affinity_diversity: bool) -> Policy:
    """Let the contenders race, and keep the best one."""
    if task.world.size > 1:
        raise ValueError(
            f"a race takes one process, but got {task.world.size} instead; give contenders () for the adversarial "
            "search alone, which shares its batches"
        )
    recorder.doing = "in the race"
    outcome = hold_contest(task, settings, recorder)
    recorder.doing, recorder.searched = "while writing the report", True
    policy = kept_policy(outcome, task, settings, seconds=recorder.elapsed())
    lines = verdict(outcome, task.data)
    if affinity_diversity:
        policy, more = _with_affinity(policy, task, settings, recorder)
        lines += more
    recorder.save({}, policy, epochs=recorder.kept)
    if recorder.folder is not None:
        write_report(recorder.folder, outcome, policy, lines, task, settings, recorder)
    recorder.say("\n" + "\n".join(lines))
    return policy


def _with_affinity(policy: Policy, task: Task, settings: Settings, recorder: Recorder) -> tuple[Policy, list[str]]:
    """The policy whose provenance has its affinity and diversity, and both in words; measured once in a run."""

    def keep(measured: AffinityDiversity) -> None:
        recorder.save({"affinity_diversity": measured.to_json()}, None, epochs=recorder.kept)

    saved = recorder.saved.get("affinity_diversity")
    before = None if saved is None else AffinityDiversity.from_json(saved)
    recorder.doing = "while measuring affinity and diversity"
    measured = measure_affinity_and_diversity(
        policy, task.data, crop=task.crop, seed=settings.seed, before=before, keep=keep
    )
    recorder.doing = "while writing the report"
    provenance = {**policy.provenance, "affinity_diversity": measured.to_json()}
    return Policy(policy.sub_policies, name=policy.name, provenance=provenance), measured.lines()


def _kept_preparation(folder: RunFolder | None) -> Any:
    """How the images of the run in a folder were prepared."""
    return None if folder is None else files.read_json(folder.settings).get("recipe")


def _fewer(name: str, settings: Settings) -> str:
    """Which settings take less memory for the images."""
    number = prepared(name, settings).num_images or "all"
    return f"lower num_images (now {number}) or image_size (now {settings.image_size or 'that of the images'})"


def _smaller(task: Task, settings: Settings) -> str:
    """Which settings take less memory for a step."""
    height, width = task.crop.size
    return (
        f"start again with a lower batch_size (now {settings.batch_size}), a lower image_size (now {height}×{width}) "
        f"or a smaller critic (now {task.critic})"
    )


def _report(
    policy: Policy, found: Diagnosis, task: Task, settings: Settings, recorder: Recorder, *, affinity_diversity: bool
) -> Policy:
    """Say what the search did, write its report, and return its policy, with affinity and diversity if asked for."""
    lines = found.verdict().splitlines()
    folder, images = recorder.folder, task.probe
    if affinity_diversity:
        policy, more = _with_affinity(policy, task, settings, recorder)
        lines += more
        if folder is not None:
            policy.save(folder.policy)
    if folder is not None:
        folder.replace_json(folder.path / "diagnosis.json", dataclasses.asdict(found) | {"verdict": lines})
        rows = recorder.rows()
        plots.curves(rows, folder.path / "curves.png")
        nothing = report.changes_nothing(policy)
        leave_pictures(recorder, policy, images, {})
        page = report.page(
            policy,
            verdict=lines,
            metrics=rows,
            images=images,
            next_steps=next_steps(folder.path, task.source, nothing=nothing, masks=task.data.has_masks),
            source=task.source,
        )
        folder.replace_text(folder.path / "report.html", page)
    recorder.say("\n".join(lines))
    return policy
