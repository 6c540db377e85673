"""The source of a run's images: named on the command line, kept in the run's folder, opened again to resume the run.

A source is a dict, as ``settings.json`` holds it: ``dataset`` and ``data_dir``, or ``shards``, and perhaps a
``description``. Paths in it are absolute, so that a run can be resumed from anywhere.

A folder may come from somebody else, and opening its source must not execute their code. But a ``module:callable`` is
imported and called, and a shard that is no plain file is fetched by a shell. So `check_consent` demands that a resuming
command names such sources again.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fasteraa_transforms.search.data.opening import open_dataset
from fasteraa_transforms.search.data.samples import Samples
from fasteraa_transforms.search.data.shards import Shards
from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.runtime.output import command_line, readable

_NAMES_NO_CALLABLE = ("device", "precision")  # settings whose text may have a colon


def make_source(
    dataset: str = "digits",
    *,
    shards: Sequence[str] = (),
    data_dir: str | os.PathLike[str] = "data",
    description: str | None = None,
) -> dict[str, Any]:
    """The source of a run, its paths as they are given.

    Args:
        dataset: as for `open_dataset`.
        shards: in place of a dataset, as for `Shards`.
        data_dir: where torchvision finds or puts its files.
        description: which images these are, in words.

    Example:
        >>> make_source("cifar10", data_dir="/data")
        {'dataset': 'cifar10', 'data_dir': '/data'}
        >>> make_source(shards=["pipe:cat x.tar"], description="ten pets")
        {'shards': ['pipe:cat x.tar'], 'description': 'ten pets'}
    """
    described = {"description": readable(description)} if description else {}
    if shards:
        return {"shards": list(shards), **described}
    return {"dataset": dataset, "data_dir": os.fspath(data_dir), **described}


def absolute(source: Mapping[str, Any]) -> dict[str, Any]:
    """``source`` with absolute paths, as a run's folder keeps it.

    Example:
        >>> absolute({"dataset": "digits", "data_dir": "/data/../data"})
        {'dataset': 'digits', 'data_dir': '/data'}
    """
    places = dict(source)
    if "shards" in places:
        return {**places, "shards": [url if _runs_command(url) else os.path.abspath(url) for url in places["shards"]]}
    if places["dataset"] not in DATASETS and Path(places["dataset"]).is_dir():
        places["dataset"] = os.path.abspath(places["dataset"])
    return {**places, "data_dir": os.path.abspath(places["data_dir"])}


def read_source(value: object) -> dict[str, Any]:
    """The source that a run's folder holds.

    Args:
        value: what `settings.json` has.

    Raises:
        ValueError: it is no source.

    Example:
        >>> read_source({"dataset": 3})
        Traceback (most recent call last):
        ValueError: it should have a dataset and a data_dir, or shards, as text, but got {'dataset': 3} instead
    """
    source = dict(value) if isinstance(value, dict) else {}
    shards, names = source.get("shards"), [source.get(key) for key in ("dataset", "data_dir")]
    whole = isinstance(shards, list) and bool(shards) and all(isinstance(url, str) for url in shards)
    if not (whole or ("shards" not in source and all(isinstance(name, str) for name in names))):
        raise ValueError(f"it should have a dataset and a data_dir, or shards, as text, but got {value!r:.80} instead")
    return source


def open_source(source: Mapping[str, Any], *, download: bool = False) -> Samples:
    """The images of a source.

    Args:
        source: of `make_source`.
        download: whether torchvision may download them.

    Raises:
        ValueError: as of `open_dataset`.
        ImportError: as of `Shards`.

    Example:
        >>> len(open_source(make_source("digits")))
        1797
    """
    if "shards" in source:
        return Shards([_as_path(url) for url in source["shards"]])
    return open_dataset(_as_path(source["dataset"]), data_dir=_as_path(source["data_dir"]), download=download)


def name_of(source: Mapping[str, Any]) -> str:
    """What a policy that is searched on a source is called, if nobody says otherwise.

    Example:
        >>> name_of({"dataset": "my_pets:photographs"}), name_of({"shards": ["train.tar"]})
        ('photographs', 'shards')
    """
    if "shards" in source:
        return "shards"
    dataset: str = source["dataset"]
    if dataset in DATASETS:
        return dataset
    if os.path.isabs(dataset) or Path(dataset).is_dir():
        return readable(os.path.basename(os.path.abspath(dataset)))
    return readable(dataset.rpartition(":")[2])


def without_places(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source as a policy's provenance has it: without what is of this machine only, folders by their last part.

    Example:
        >>> without_places({"dataset": "/home/me/pets", "data_dir": "/home/me/data", "description": "pets"})
        {'dataset': 'pets', 'description': 'pets'}
    """
    public = {key: value for key, value in source.items() if key != "data_dir"}
    if os.path.isabs(str(source.get("dataset", ""))):
        public["dataset"] = readable(os.path.basename(os.path.normpath(source["dataset"])))
    if "shards" in source:
        public["shards"] = [readable(os.path.basename(url) if os.path.isabs(url) else url) for url in source["shards"]]
    return public


def moved(
    saved: Mapping[str, Any],
    *,
    dataset: str | None = None,
    shards: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """The saved source, in the places that are given now.

    Args:
        saved: of the run that is resumed.
        dataset: the new place of a folder; other names are not used.
        shards: the new places of shards.
        data_dir: the new place of torchvision's files.

    Example:
        >>> moved({"dataset": "cifar10", "data_dir": "/old"}, data_dir="/new")
        {'dataset': 'cifar10', 'data_dir': '/new'}
    """
    places = dict(saved)
    if "shards" in saved:
        return absolute({**places, "shards": list(shards)}) if shards else places
    if data_dir is not None:
        places["data_dir"] = os.path.abspath(data_dir)
    if dataset is not None and os.path.isabs(saved["dataset"]) and Path(dataset).is_dir():
        places["dataset"] = os.path.abspath(dataset)
    return places


def commands_in(source: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """What a saved run names that would execute code, by the flag that gives it again.

    Args:
        source: of the run.
        settings: of the run, by their names.

    Example:
        >>> commands_in({"shards": ["a.tar", "pipe:rm -r x"]}, {"critic": "their:net", "device": "cuda:1"})
        {'shards': ['a.tar', 'pipe:rm -r x'], 'critic': 'their:net'}
    """
    names: dict[str, str | list[str]] = {}
    shards = [str(url) for url in source.get("shards", ())]
    if any(map(_runs_command, shards)):
        names["shards"] = shards
    dataset = str(source.get("dataset", ""))
    if dataset not in DATASETS and not os.path.isabs(dataset) and ":" in dataset:
        names["dataset"] = dataset
    named = {name: value for name, value in settings.items() if name not in _NAMES_NO_CALLABLE}
    names |= {name: value for name, value in named.items() if any(":" in text for text in _as_list(value))}
    return names


def check_consent(
    folder: object,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Check that whoever resumes a run names again what the run's folder would execute.

    Args:
        folder: of the run, for the message.
        source: that is going to be opened.
        settings: of the run, by their names.
        given: what the command line names, by the flags ``dataset``, ``shards``, and those of the settings.

    Raises:
        ValueError: something that executes code was not given, or is not what was given; says what to add.

    Example:
        >>> check_consent("runs/a", {"dataset": "their:pets"}, {}, {})
        Traceback (most recent call last):
        ValueError: runs/a names code that it would run: --dataset their:pets; if you trust it, name it again: ...
    """
    names = commands_in(source, settings)
    unsaid = {flag: value for flag, value in names.items() if _as_list(given.get(flag)) != _as_list(value)}
    if unsaid:
        again = command_line("--resume", folder, *consent_flags(source, settings))
        code = command_line(*_flags(unsaid))
        raise ValueError(f"{folder} names code that it would run: {code}; if you trust it, name it again: {again}")


def consent_flags(source: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What a command that resumes a run has to name again; to be printed with ``--resume``.

    Example:
        >>> consent_flags({"dataset": "my:pets"}, {"critic": "small"})
        ['--dataset', 'my:pets']
    """
    return _flags(commands_in(source, settings))


def _flags(names: Mapping[str, str | list[str]]) -> list[str]:
    return [part for flag, value in names.items() for part in (f"--{flag.replace('_', '-')}", *_as_list(value))]


def _as_path(text: str) -> str:
    """``text`` as the system opens it, also if a run in another locale kept it."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    return text


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]


def _runs_command(url: str) -> bool:
    """Whether webdataset may hand a shard to a shell: all but plain paths, as it expands lists and variables."""
    return url == "-" or any(each in os.path.splitdrive(url)[1] for each in ":$")
