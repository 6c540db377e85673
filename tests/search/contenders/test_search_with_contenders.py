"""The search as users call it: contenders race, the best one is kept, and the folder says why."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from fasteraa_transforms import OPERATIONS, FasterAutoAugment, Policy
from fasteraa_transforms.search import Digits, SearchInterrupted, Settings, run, search
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.algorithm import loop
from fasteraa_transforms.search.contenders import adversarial, contest, hold
from fasteraa_transforms.search.evaluation.affinity import AffinityDiversity
from fasteraa_transforms.search.operations import main as look
from fasteraa_transforms.search.runtime.files import DamagedFile, read_rows
from fasteraa_transforms.search.runtime.folder import RunFolder

TINY = Settings(
    contenders=("none", "uniform", "calibrated"),
    num_images=120,
    image_size=16,
    network="resnet9-4",
    race_epochs=2,
    trainings=6,
    replicates=2,
    processes=1,
    device="cpu",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contenders") / "run"
    search(Digits(), TINY, out=folder, name="digits", progress=False)
    return folder


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "race.jsonl")
    return [{key: value for key, value in row.items() if key not in ("seconds", "wall", "elapsed")} for row in rows]


def test_the_folder_says_what_is_kept_and_why(whole: Path) -> None:
    found = json.loads((whole / "diagnosis.json").read_text(encoding="utf-8"))
    assert found["kept"] == found["standings"][0]["contender"]
    assert found["verdict"][0].startswith(("Keep ", "Train without augmentation"))
    assert "held-out error" in found["verdict"][0]
    assert {row["contender"] for row in _rows(whole)} >= {"none", "uniform"}
    assert set(found["curves"]["none"]["points"]) == set(OPERATIONS)
    report = (whole / "report.html").read_text(encoding="utf-8")
    assert found["kept"] in report


def test_the_policy_is_that_of_the_kept_contender(whole: Path) -> None:
    policy = Policy.load(whole / "policy.json")
    kept = policy.provenance["kept"]
    if kept == "none":
        assert sum(policy.effective_share().values()) == 0
    elif kept != "uniform":
        assert policy == Policy.load(whole / f"{kept.replace(' ', '-')}.json")
    assert policy.provenance["standings"][0]["contender"] == kept
    assert len(FasterAutoAugment(policy)(Digits().images[:4])) == 4


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_race_that_was_killed_goes_on_to_the_same_end(whole: Path, tmp_path: Path, rows: int) -> None:
    class Killed(Exception):
        pass

    append, done = RunFolder.append, []

    def dying(self: RunFolder, new: Any, name: str = "metrics.jsonl") -> None:
        if name == hold.ROWS:
            if len(done) == rows:
                raise Killed
            done.append(name)
        append(self, new, name)

    patch = pytest.MonkeyPatch()
    patch.setattr(RunFolder, "append", dying)
    with pytest.raises(Killed):
        search(Digits(), TINY, out=tmp_path / "run", name="digits", progress=False)
    patch.undo()
    search(Digits(), TINY, out=tmp_path / "run", name="digits", progress=False, resume=True)
    assert sorted(map(str, _rows(tmp_path / "run"))) == sorted(map(str, _rows(whole)))
    assert Policy.load(tmp_path / "run" / "policy.json") == Policy.load(whole / "policy.json")


def test_ctrl_c_in_a_race_says_how_many_networks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, done = RunFolder.append, []

    def interrupted(self: RunFolder, new: Any, name: str = "metrics.jsonl") -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        append(self, new, name)

    monkeypatch.setattr(RunFolder, "append", interrupted)
    with pytest.raises(SearchInterrupted) as caught:
        search(Digits(), TINY, out=tmp_path, name="digits", progress=False)
    assert re.fullmatch(
        rf"interrupted in the race; {tmp_path} keeps 2 networks of the race\. Continue with\n"
        rf"    .* search --resume {tmp_path}",
        str(caught.value),
    )
    assert done == [hold.ROWS] * 2


def test_ctrl_c_before_the_race_can_go_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(contest, "_plan", _interrupt)
        with pytest.raises(SearchInterrupted, match=r"; .* keeps 0 networks of the race\. Continue with\n"):
            search(Digits(), TINY, out=tmp_path, name="digits", progress=False)
    search(Digits(), TINY, out=tmp_path, name="digits", progress=False, resume=True)
    assert sorted(map(str, _rows(tmp_path))) == sorted(map(str, _rows(whole)))


def _interrupt(*args: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["run.write_report", "run.kept_policy", "verdict.page", "verdict.leave_pictures"])
def test_ctrl_c_in_the_report_leaves_the_report_alone_to_do(
    whole: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)  # so that no network has to be trained here
    for name in ("report.html", "policy.json", "contact_sheet.png"):
        (out / name).unlink()
    monkeypatch.setattr("fasteraa_transforms.search.contenders.race.run_trial", lambda *args, **options: 1 / 0)
    with monkeypatch.context() as patch:
        patch.setattr(f"fasteraa_transforms.search.{where}", _interrupt)
        with pytest.raises(SearchInterrupted) as caught:
            search(Digits(), TINY, out=out, name="digits", progress=False, resume=True)
    assert re.fullmatch(
        rf"interrupted while writing the report; {out} keeps all that was searched; only the report is left\. "
        rf"Write it with\n    .* search --resume {out}",
        str(caught.value),
    )
    before = _rows(out)
    search(Digits(), TINY, out=out, name="digits", progress=False, resume=True)
    assert _rows(out) == before == _rows(whole)
    assert Policy.load(out / "policy.json") == Policy.load(whole / "policy.json")
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_affinity_that_was_measured_is_not_measured_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    options: dict[str, Any] = {"out": out, "name": "digits", "progress": False, "affinity_diversity": True}
    part = AffinityDiversity((0.5,), (0.25,), (1.0,), (2.0,))
    measured = AffinityDiversity((0.5,) * 3, (0.25,) * 3, (1.0,) * 3, (2.0,) * 3)
    begun: list[AffinityDiversity | None] = []

    def measure(*args: Any, before: AffinityDiversity | None, keep: Any, **options: Any) -> AffinityDiversity:
        begun.append(before)
        keep(part if before is None else measured)
        if before is None:
            raise KeyboardInterrupt
        return measured

    with monkeypatch.context() as patch:
        patch.setattr(run, "measure_affinity_and_diversity", measure)
        with pytest.raises(SearchInterrupted, match=rf" --resume {out} --affinity-diversity$"):
            search(Digits(), TINY, resume=True, **options)
        patch.setattr(run, "write_report", _interrupt)
        with pytest.raises(SearchInterrupted, match=rf" --resume {out} --affinity-diversity$"):
            search(Digits(), TINY, resume=True, **options)
    assert begun == [None, part]
    monkeypatch.setattr("fasteraa_transforms.search.evaluation.affinity.fit", lambda training: 1 / 0)
    policy = search(Digits(), TINY, resume=True, **options)
    assert policy.provenance["affinity_diversity"] == measured.to_json()


def test_the_seconds_of_a_race_are_those_of_all_its_starts(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    rows = read_rows(out / hold.ROWS)
    elapsed = [row["elapsed"] for row in rows]
    assert elapsed == sorted(elapsed)
    assert 0 < elapsed[0] < elapsed[-1] <= Policy.load(whole / "policy.json").provenance["seconds"] + 0.1
    RunFolder(out).replace_rows([*rows[:-1], rows[-1] | {"elapsed": 4000}], hold.ROWS)
    policy = search(Digits(), TINY, out=out, name="digits", progress=False, resume=True)
    assert 4000 <= policy.provenance["seconds"] < 4600
    again = search(Digits(), TINY, out=out, name="digits", progress=False, resume=True)
    assert again.provenance["seconds"] >= policy.provenance["seconds"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda row: row.pop("loss"), "'loss' is missing"),
        (lambda row: row.update(contender="foreign"), "contender is 'foreign', which is not in this race"),
        (lambda row: row.update(losses=row["losses"][8:]), "losses has .* bytes, not 2 for each of .* images"),
    ],
)
def test_a_foreign_row_ends_in_one_line(whole: Path, tmp_path: Path, damage: Any, reason: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    rows = read_rows(out / hold.ROWS)
    damage(rows[1])
    RunFolder(out).replace_rows(rows, hold.ROWS)
    with pytest.raises(DamagedFile, match=rf"^{out / hold.ROWS} is damaged in line 2 \({reason}\)$"):
        search(Digits(), TINY, out=out, name="digits", progress=False, resume=True)


def test_a_plan_of_another_version_is_said(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    folder = RunFolder(out)
    saved = folder.load_checkpoint()
    saved["contest"]["validation_steps"] = 3
    folder.save_checkpoint(saved)
    message = (
        rf"^{out / 'checkpoint.pt'} has a plan of another version \(.*validation_steps.*\); search anew in another"
    )
    with pytest.raises(DamagedFile, match=message):
        search(Digits(), TINY, out=out, name="digits", progress=False, resume=True)


def test_resuming_a_race_that_is_done_trains_nothing(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fasteraa_transforms.search.contenders.race.run_trial", lambda *args, **options: 1 / 0)
    policy = search(Digits(), TINY, out=whole, name="digits", resume=True)
    assert policy == Policy.load(whole / "policy.json")
    # What is said first comes before the images are loaded; then what was loaded, and what races.
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "1,797 samples; loading images and searching take up to 10 min"
    assert told[1].startswith("120 of 1,797 images, 1×16×16")
    assert re.match(r"cpu; 4 contenders race with resnet9-4, about 6 networks of about .* each: .* of ", told[2])


def test_the_adversarial_search_races_at_its_strengths(tmp_path: Path) -> None:
    settings = Settings(
        **{
            **vars(TINY),
            "contenders": ("none", "adversarial"),
            "exclude": ("flip", "invert"),
            "epochs": 2,
            "classifier_epochs": 1,
            "batch_size": 32,
            "strengths": (1.0, 0.5),
            "sub_policies": 2,
        }
    )
    search(Digits(), settings, out=tmp_path, name="digits", progress=False)
    names = {row["contender"] for row in _rows(tmp_path)}
    assert names == {"none", "adversarial 1", "adversarial 0.5"}
    for name in ("adversarial-1", "adversarial-0.5"):
        share = Policy.load(tmp_path / f"{name}.json").effective_share()
        assert share["flip"] == share["invert"] == 0
        assert sum(share.values()) > 0


def test_an_adversarial_search_that_was_killed_before_its_first_checkpoint_has_one_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(
        TINY, contenders=("none", "adversarial"), epochs=1, strengths=(1.0,), classifier_epochs=1, batch_size=32
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", _interrupt)
        with pytest.raises(SearchInterrupted):
            search(Digits(), settings, out=tmp_path, name="digits", progress=False)
    assert [row["epoch"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0]
    search(Digits(), settings, out=tmp_path, name="digits", progress=False, resume=True)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [0, 1]


def test_the_adversarial_search_begins_from_the_calibrated_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Policy | None] = []
    relaxed_start = adversarial.relaxed_start

    def watched(start: Policy | None, *others: Any, **options: Any) -> Any:
        starts.append(start)
        return relaxed_start(start, *others, **options)

    monkeypatch.setattr(adversarial, "relaxed_start", watched)
    settings = dataclasses.replace(
        TINY,
        contenders=("none", "calibrated", "adversarial"),
        race_epochs=8,
        start="calibrated",
        guard="own",
        penalty_every=2,
        sample_selection=True,
        epochs=1,
        classifier_epochs=1,
        batch_size=32,
        strengths=(1.0,),
    )
    search(Digits(), settings, out=tmp_path, name="digits", progress=False)
    (start,) = starts
    assert start == Policy.load(sorted(tmp_path.glob("calibrated-*.json"))[-1])
    searched = Policy.load(tmp_path / "adversarial-1.json")
    used = {each.operation for each in start.sub_policies[0][0]}
    assert {each.operation for sub in searched.sub_policies for stage in sub for each in stage} <= used


def test_screening_tells_the_effect_of_each_operation(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, contenders=("none", "screening"), race_epochs=1, operations=("flip", "rotate"))
    search(Digits(), settings, out=tmp_path, name="digits", progress=False)
    found = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))
    assert sorted(each["operation"] for each in found["screening"]) == ["flip", "rotate"]
    assert sum(row["contender"].startswith("screening ") for row in _rows(tmp_path)) == 20
    assert found["verdict"][-1].startswith("Screening: ")


class DigitMasks(Digits):
    """Digits at 16×16: the ink has class 1 to 10, by its digit, the background 0."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        image = v2.functional.resize(image, [16, 16])
        return image, torch.where(image[0] > 100, label + 1, 0)


def test_masks_race_by_their_pixels(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, race_epochs=60, contenders=("none", "calibrated"))
    search(DigitMasks(), settings, out=tmp_path, name="digit masks", progress=False)
    rows = _rows(tmp_path)
    assert "none" in {row["contender"] for row in rows}
    assert all(0 < row["error"] < 1 and row["held_out"] == 48 for row in rows)
    found = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))
    points = found["curves"]["none"]["points"]
    # Of pixels, most are background whatever is moved; geometry moves masks along, so it breaks less than inverting.
    assert points["flip"][0]["accuracy"] > points["invert"][0]["accuracy"]


def test_the_settings_of_a_run_start_another(whole: Path, tmp_path: Path) -> None:
    arguments = ["digits", "--settings", str(whole / "settings.json"), "--seed", "1", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert RunFolder(tmp_path / "run").load_settings() == dataclasses.replace(TINY, seed=1)


def test_the_operations_command_says_what_each_operation_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "digits --num-images 120 --image-size 16 --network resnet9-4 --epochs 8 --networks 2 --processes 1"
    assert look([*flags.split(), "--exclude", "flip", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "operations.json").read_text(encoding="utf-8"))
    assert set(found["points"]) == set(OPERATIONS) - {"flip"}
    assert found["images"] == 2 * 48
    printed = capsys.readouterr().out
    assert "Changes nothing here: " in printed
    assert "color" in printed.partition("Changes nothing here: ")[2]
    page = (tmp_path / "operations.html").read_text(encoding="utf-8")
    assert "rotate" in page


def test_operations_of_unusable_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_other_images_are_refused_on_resuming(whole: Path) -> None:
    other = Digits()
    other.images = 255 - other.images
    with pytest.raises(ValueError, match="the images should be those that"):
        search(other, TINY, out=whole, name="digits", progress=False, resume=True)
