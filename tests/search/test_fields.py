"""Settings that make no sense are refused, whatever the field: from Python, from a command line, from a file."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from fasteraa_transforms.fields import POSITIVE, check_fields
from fasteraa_transforms.search import Settings, TrainingSettings, evaluate, operations
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.networks.fit import Recipe
from fasteraa_transforms.search.runtime.folder import read_settings

NANS = (math.nan, math.inf, -math.inf)
LEAST_MINUS_1 = -(2**31) - 1  # of labels, which alone may be negative


def _types(kind: Any) -> set[Any]:
    """The types in a type: of ``tuple[float, ...] | None`` tuple, float and None."""
    return {kind, *(each for inner in get_args(kind) for each in _types(inner))}


def _fields(made: type, *kinds: type) -> list[tuple[type, str, Any]]:
    """The fields of a dataclass that hold one of ``kinds``, each with its type."""
    hints = get_type_hints(made)
    return [
        (made, each.name, hints[each.name]) for each in dataclasses.fields(made) if _types(hints[each.name]) & {*kinds}
    ]


def _numbers(*kinds: type) -> list[tuple[type, str, Any]]:
    return [each for made in (Settings, TrainingSettings, Recipe) for each in _fields(made, *(kinds or (int, float)))]


def make(made: type, name: str, value: Any) -> Any:
    """Settings of which one field is given; ``value`` is the last number of a field of several."""
    kind = get_type_hints(made)[name]
    if any(get_origin(each) is tuple for each in _types(kind)):
        value = (0.5, value)
    given = {"epochs": 3} if made is Recipe else {}
    return made(**given | {name: value})


@pytest.mark.parametrize(("made", "name", "kind"), _numbers(), ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("value", [*NANS, "3", True, [], 1j, LEAST_MINUS_1])
def test_what_is_no_number_of_the_range_is_refused(made: type, name: str, kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} should .*, but got .* instead") as caught:
        make(made, name, value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("made", "name", "kind"), _numbers(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_nothing_but_a_label_may_be_negative(made: type, name: str, kind: Any) -> None:
    if name == "ignore_label":
        assert make(made, name, -1).ignore_label == -1
        return
    for value in (-1, -0.5, -(10**400)):
        with pytest.raises(ValueError, match=rf"^{name} should "):
            make(made, name, value)


@pytest.mark.parametrize(("made", "name", "kind"), _numbers(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_numbers_that_overflow_are_refused(made: type, name: str, kind: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name} should .*, but got a very large number instead$|^{name} .*\(0\.5, "
    ):
        make(made, name, 10**5000)


@pytest.mark.parametrize(
    ("made", "name", "kind"), _numbers(int), ids=lambda value: getattr(value, "__name__", str(value))
)
def test_whole_numbers_are_whole(made: type, name: str, kind: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} should be a whole number, but got 2\.5 instead$"):
        make(made, name, 2.5)
    for value in (4.0, np.int64(4), np.float32(4), torch.tensor(4)):
        taken = getattr(make(made, name, value), name)
        assert (type(taken), taken) == (int, 4)


@pytest.mark.parametrize(
    ("made", "name", "kind"),
    [each for made in (Settings, TrainingSettings, Recipe) for each in _fields(made, bool, str)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_flags_and_texts_take_nothing_else(made: type, name: str, kind: Any) -> None:
    for value in (0, 3, b"cpu", {"auto"}):
        with pytest.raises(ValueError, match=rf"^{name} should be (True or False|text|a list of texts), but got "):
            make(made, name, value)


@pytest.mark.parametrize("name", ["start", "guard", "precision", "graphs"])
def test_choices(name: str) -> None:
    for value in ("none", 3, None, ["auto"]):
        with pytest.raises(
            ValueError, match=rf"^{name} should be \w+(, \w+)* or \w+, but got {re.escape(repr(value))} "
        ):
            Settings(**{name: value})


@pytest.mark.parametrize(
    ("made", "changes", "message"),
    [
        (Settings, {"betas": (0, 1)}, "betas should be in [0, 1), but got (0, 1) instead"),
        (Settings, {"betas": (0.9,)}, "betas should be a list of 2 numbers, but got (0.9,) instead"),
        (Settings, {"betas": 0.9}, "betas should be a list of 2 numbers, but got 0.9 instead"),
        (Settings, {"prune": 1}, "prune should be in [0, 1), but got 1 instead"),
        (Settings, {"image_size": 1}, "image_size should be at least 2 pixels, but got 1 instead"),
        (Settings, {"seed": 2**32}, "seed should be in [0, 4294967296), but got 4294967296 instead"),
        (Settings, {"epochs": 2**31}, "epochs should be at most 2147483647, but got 2147483648 instead"),
        (Settings, {"minutes": math.inf}, "minutes should be finite, but got inf instead"),
        (Settings, {"operations": "rotate"}, "operations should be a list of texts, but got 'rotate' instead"),
        (Settings, {"epochs": None}, "epochs should be a whole number, but got None instead"),
        (TrainingSettings, {"cutout": 5}, "cutout should be even, but got 5 instead"),
        (TrainingSettings, {"image_size": 1}, "image_size should be at least 2 pixels, but got 1 instead"),
        (TrainingSettings, {"weight_decay": math.nan}, "weight_decay should not be negative, but got nan instead"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_message_says(made: type, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        made(**changes)


def test_what_means_the_same_is_taken() -> None:
    settings = Settings(
        strengths=[1, np.float64(0.5)],
        contenders=["none", Path("found.json")],
        device=torch.device("cpu"),
        num_images=4e3,
    )
    assert settings == Settings(strengths=(1.0, 0.5), contenders=("none", "found.json"), device="cpu", num_images=4000)
    assert hash(settings)
    json.dumps(dataclasses.asdict(settings))


@pytest.mark.parametrize("made", [Settings, TrainingSettings, Settings.paper])
def test_the_defaults_and_the_edges_are_in_range(made: Any) -> None:
    made(seed=0) if made is not TrainingSettings else made(split_seed=0, gradient_clip=0.0, cutout=0, padding=0)
    if made is Settings:
        made(betas=(0, 0.0), prune=0, seed=2**32 - 1, classification_weight=0, gradient_penalty_weight=0, image_size=2)


def test_a_field_without_a_range_is_a_mistake_of_the_class() -> None:
    @dataclasses.dataclass
    class Without:
        steps: int = 3

        def __post_init__(self) -> None:
            check_fields(self)

    @dataclasses.dataclass
    class Unknown:
        steps: dict[str, int] = dataclasses.field(default_factory=dict, metadata=POSITIVE)

        def __post_init__(self) -> None:
            check_fields(self)

    with pytest.raises(TypeError, match="should have its range in its metadata"):
        Without()
    with pytest.raises(TypeError, match="should be of a known type"):
        Unknown()


# --- from a command line, from a file ---------------------------------------------------------------------------------

NONSENSE = [
    ("--policy-learning-rate=nan", "policy_learning_rate should be positive, but got nan instead"),
    ("--critic-learning-rate=-1", "critic_learning_rate should be positive, but got -1.0 instead"),
    ("--temperature=inf", "temperature should be finite, but got inf instead"),
    ("--minutes=nan", "minutes should be positive, but got nan instead"),
    ("--prune=1", r"prune should be in \[0, 1\), but got 1.0 instead"),
    ("--seed=-1", r"seed should be in \[0, 4294967296\), but got -1 instead"),
    ("--image-size=1", "image_size should be at least 2 pixels, but got 1 instead"),
    ("--strengths=nan", r"strengths should be positive, but got \(nan,\) instead; no augmentation .* none"),
]


@pytest.mark.parametrize(("flag", "message"), NONSENSE)
def test_a_command_line_says_it_in_one_line(
    flag: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([flag]) == 2
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--learning-rate=inf", "learning_rate should be finite, but got inf instead"),
        ("--weight-decay=nan", "weight_decay should not be negative, but got nan instead"),
        ("--cutout=7", "cutout should be even, but got 7 instead"),
        ("--split-seed=-1", r"split_seed should be in \[0, 4294967296\), but got -1 instead"),
    ],
)
def test_the_command_line_of_an_evaluation_says_it_in_one_line(
    flag: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([flag]) == 2
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--minutes=nan", "minutes should be positive, but got nan instead"),
        ("--minutes=inf", "minutes should be finite, but got inf instead"),
        ("--tolerance=-0.5", r"tolerance should be in \[0, 1\), but got -0.5 instead"),
        ("--networks=0", "networks should be positive, but got 0 instead"),
        ("--epochs=-2", "epochs should be positive, but got -2 instead"),
        ("--processes=0", "processes should be positive, but got 0 instead"),
        ("--seed=-1", r"seed should be in \[0, 4294967296\), but got -1 instead"),
        ("--image-size=1", "image_size should be at least 2 pixels, but got 1 instead"),
    ],
)
def test_the_command_line_of_operations_says_it_in_one_line(
    flag: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert operations.main([flag]) == 2
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"temperature": NaN}', "temperature should be positive, but got nan instead"),
        ('{"minutes": 1e999}', "minutes should be finite, but got inf instead"),
        ('{"betas": [0, 1]}', r"betas should be in \[0, 1\), but got \[0, 1\] instead"),
        ('{"betas": 0}', "betas should be a list of 2 numbers, but got 0 instead"),
        ('{"operations": "flip"}', "operations should be a list of texts, but got 'flip' instead"),
        ('{"contenders": [1]}', r"contenders should be text, but got \[1\] instead"),
        ('{"strengths": 1}', "strengths should be a list of numbers, but got 1 instead"),
        ('{"epochs": true}', "epochs should be a whole number, but got True instead"),
        ('{"epochs": null}', "epochs should be a whole number, but got None instead"),
        ('{"flip": "no"}', "flip should be True or False, but got 'no' instead"),
        ('{"device": {"a": 1}}', "device should be text, but got {'a': 1} instead"),
    ],
)
def test_a_file_of_settings_is_checked_alike(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(f'{{"settings": {content}}}', encoding="utf-8")
    assert main(["--settings", "mine.json"]) == 2
    assert re.fullmatch(
        rf"error: mine\.json does not hold the settings of a search \({message}\)\n", capsys.readouterr().err
    )


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    for settings in (Settings(), Settings.paper(betas=(0.5, 0.9), operations=("flip", "rotate"))):
        path = tmp_path / "settings.json"
        path.write_text(json.dumps({"settings": dataclasses.asdict(settings)}), encoding="utf-8")
        assert read_settings(path) == settings
