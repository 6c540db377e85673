"""The command line: exit statuses, messages, the folder, Ctrl-C in a real process and resuming after it."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fasteraa_transforms import Policy
from fasteraa_transforms.search import Settings, task
from fasteraa_transforms.search.__main__ import main
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data import source as sources
from fasteraa_transforms.search.networks.table import NETWORKS
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime import files
from fasteraa_transforms.search.runtime.files import read_rows
from fasteraa_transforms.search.runtime.folder import RunFolder

MODULE = "fasteraa_transforms.search"
RUNS = Path(__file__).parents[2] / "search" / "runs"
PATIENCE = 600  # seconds for what takes some ten; on a machine that many share it can be minutes


def flags(text: str) -> list[str]:
    return text.split()


TINY = flags(
    "--epochs 2 --num-images 64 --batch-size 32 --sub-policies 3 --stages 1 --image-size 8 --padding 1 --preset paper"
)
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
}


@pytest.fixture
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib takes longer than the runs of some tests."""
    monkeypatch.setattr(pictures, "curves", lambda *args: None)
    monkeypatch.setattr(pictures, "curve_svg", lambda *args: "")


def rows(folder: Path) -> list[dict[str, object]]:
    """The rows of metrics.jsonl, but for the time they took."""
    found = read_rows(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


# --- in this process --------------------------------------------------------------------------------------------------


def test_a_run_with_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = flags("--seed 3 --critic small --betas 0.5 0.9 --chunk-size 4 --no-download --precision float32")
    assert main([*TINY, *arguments, "--policy-learning-rate", "0.01", "--out", str(out)]) == 0
    policy = Policy.load(out / "policy.json")
    assert (policy.name, len(policy), policy.stages) == ("digits", 3, 1)
    assert RunFolder(out).load_settings() == Settings.paper(
        epochs=2,
        num_images=64,
        batch_size=32,
        sub_policies=3,
        stages=1,
        image_size=8,
        padding=1,
        seed=3,
        critic="small",
        betas=(0.5, 0.9),
        chunk_size=4,
        precision="float32",
        policy_learning_rate=0.01,
    )
    names = {entry.name for entry in out.iterdir()}
    assert names >= {
        "checkpoint.pt",
        "curves.png",
        "contact_sheet.png",
        "diagnosis.json",
        "metrics.jsonl",
        "report.html",
    }
    printed = capsys.readouterr()
    assert "Close to the random start" in printed.out
    assert (
        f"wrote {out / 'policy.json'}; augment with FasterAutoAugment.from_pretrained('{out / 'policy.json'}')"
        in printed.out
    )
    assert "epoch 2/2" in printed.err  # the progress bar


@pytest.mark.usefixtures("_no_curves")
def test_the_folder_of_a_run_is_named_after_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["digits", *TINY, "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "digits" / "policy.json").is_file()


@pytest.mark.usefixtures("_no_curves")
def test_presets(tmp_path: Path) -> None:
    sizes = flags("--num-images 64 --batch-size 32 --sub-policies 3 --stages 1 --image-size 8")
    options = flags("--epochs 2 --strengths 0.5 0.25 --classifier-epochs 1 --contenders")
    assert main([*sizes, *options, "--out", str(tmp_path / "default")]) == 0
    changes = {
        "num_images": 64,
        "batch_size": 32,
        "sub_policies": 3,
        "stages": 1,
        "image_size": 8,
    }
    held = {"epochs": 2, "strengths": (0.5, 0.25), "classifier_epochs": 1, "contenders": ()}
    assert RunFolder(tmp_path / "default").load_settings() == Settings(**changes, **held)
    assert main([*sizes, "--preset=paper", "--epochs", "1", "--out", str(tmp_path / "paper")]) == 0
    assert RunFolder(tmp_path / "paper").load_settings() == Settings.paper(**changes, epochs=1)


def test_a_folder_of_an_earlier_version_has_the_papers_settings(tmp_path: Path) -> None:
    fields = dataclasses.asdict(Settings.paper(seed=4))
    for name in ("classifier_epochs", "strengths", "multiplier_rate"):
        del fields[name]
    RunFolder(tmp_path).replace_json(tmp_path / "settings.json", {"settings": fields})
    assert RunFolder(tmp_path).load_settings() == Settings.paper(seed=4)


@pytest.mark.parametrize("run", sorted(path.parent.name for path in RUNS.glob("*/metrics.jsonl")))
def test_settings_of_the_published_runs_can_be_read(run: str) -> None:
    """Their searches let small networks choose; what is left of that are the strengths."""
    fields = json.loads((RUNS / run / "settings.json").read_text(encoding="utf-8"))["settings"]
    settings = RunFolder(RUNS / run).load_settings()
    assert settings.contenders == ()
    assert settings.strengths == tuple(each for each in fields.get("strengths", ()) if each)
    assert (settings.seed, settings.epochs) == (fields["seed"], fields["epochs"])


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"strengths": [1.0, 0.0], "uniform": []}, True),
        ({"strengths": [1.0], "uniform": ["all"]}, True),
        ({"strengths": [1.0], "uniform": []}, False),
        ({"strengths": [], "uniform": []}, False),  # the paper's
        ({"strengths": [1.0, 0.0], "uniform": ["all"], "contenders": ["none", "uniform"]}, False),  # a race
    ],
)
def test_runs_that_chose_by_small_networks_are_not_resumed(
    tmp_path: Path, fields: dict[str, Any], refused: bool
) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.touch()
    folder.replace_json(folder.settings, {"settings": {"validation_steps": 2000, **fields}})
    settings = folder.load_settings()
    if not refused:
        folder.prepare(settings, resume=True)
        return
    with pytest.raises(ValueError, match=r"was run by an earlier version, which chose among strengths and uniform "):
        folder.prepare(settings, resume=True)


@pytest.mark.usefixtures("_no_curves")
def test_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(8):
            image = torch.randint(0, 256, (10, 10 + i, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(image.numpy()).save(tmp_path / "pets" / name / f"{i}.png")
    arguments = flags("--preset paper --epochs 1 --batch-size 8 --sub-policies 2 --stages 1")
    assert main([str(tmp_path / "pets"), *arguments, "--out", str(tmp_path / "run")]) == 2
    assert "give an image size" in capsys.readouterr().err
    assert main([str(tmp_path / "pets"), *arguments, "--image-size", "10", "--out", str(tmp_path / "run")]) == 0
    policy = Policy.load(tmp_path / "run" / "policy.json")
    assert policy.name == "pets"
    assert policy.provenance["images"] == 16


SMALL = flags("--preset paper --epochs 1 --batch-size 8 --sub-policies 2 --stages 1")


def own_images() -> list[tuple[torch.Tensor, int]]:
    """A dataset that a command line names as a module and a callable."""
    images = torch.randint(0, 256, (24, 2, 10, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [(image, i % 3) for i, image in enumerate(images)]


@pytest.mark.usefixtures("_no_curves")
@pytest.mark.parametrize("how", [["--dataset"], []], ids=["flag", "positional"])
def test_a_dataset_of_ones_own(
    how: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = f"{__name__}:own_images"
    arguments = [*how, dataset, *SMALL, "--num-images", "12", "--balanced", "--description", "random bytes"]
    assert main(arguments) == 0
    out = tmp_path / "runs" / "own_images"
    policy = Policy.load(out / "policy.json")
    assert (policy.name, policy.provenance["images"]) == ("own_images", 12)
    assert RunFolder(out).load_settings().balanced
    source = {"dataset": dataset, "description": "random bytes"}
    assert policy.provenance["source"] == source
    saved = json.loads((out / "settings.json").read_text())["source"]
    assert saved == {**source, "data_dir": str(tmp_path / "data")}
    capsys.readouterr()
    assert main(["--resume", str(out)]) == 2  # a folder executes nothing by itself
    again = f"--resume {out} --dataset {dataset}"
    error = f"error: {out} names code that it would run: --dataset {dataset}; if you trust it, name it again: {again}\n"
    assert capsys.readouterr().err == error
    monkeypatch.chdir("/")
    assert main(shlex.split(again)) == 0
    assert Policy.load(out / "policy.json") == policy


@pytest.mark.usefixtures("_no_curves")
def test_a_name_is_that_of_the_policy_and_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", f"{__name__}:own_images", *SMALL, "--num-images", "24", "--image-size", "10"]
    assert main([*arguments, "--name", "mine"]) == 0
    assert Policy.load(tmp_path / "runs" / "mine" / "policy.json").provenance["recipe"]["flip"] is True
    assert main([*arguments, "--name", "digits"]) == 0
    assert Policy.load(tmp_path / "runs" / "digits" / "policy.json").provenance["recipe"]["flip"] is False


@pytest.mark.usefixtures("_no_curves")
def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for shard in range(2):
        with webdataset.TarWriter(f"train-{shard}.tar") as writer:
            for i in range(16):
                image = torch.randint(0, 256, (12, 12, 3), dtype=torch.uint8, generator=generator)
                writer.write({"__key__": f"{shard}{i:02}", "png": image.numpy() / 255, "cls": i % 4})
    assert main(["--shards", "train-{0..1}.tar", *SMALL, "--num-images", "20"]) == 0
    policy = Policy.load(tmp_path / "runs" / "shards" / "policy.json")
    assert (policy.name, policy.provenance["images"]) == ("shards", 20)
    saved = json.loads((tmp_path / "runs" / "shards" / "settings.json").read_text())
    assert saved["source"] == {"shards": [str(tmp_path / "train-{0..1}.tar")]}
    with monkeypatch.context() as patch:
        patch.chdir("/")
        assert main(["--resume", str(tmp_path / "runs" / "shards")]) == 0
    arguments = ["--shards", "train-0.tar", "train-1.tar", "--out", "run", "--name", "pets", *SMALL]
    assert main([*arguments, "--num-images", "20"]) == 0
    again = Policy.load(tmp_path / "run" / "policy.json")
    assert again.name == "pets"
    assert again == policy


def test_shards_without_webdataset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    assert main(["--shards", "train.tar"]) == 2
    assert 'shards need: pip install "fasteraa_transforms[webdataset]"' in capsys.readouterr().err


@pytest.mark.usefixtures("_no_curves")
def test_resuming_takes_dataset_and_settings_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["digits", "--data-dir", str(tmp_path / "data"), *TINY]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    step, calls = Wasserstein.step, []

    def interrupted(self: Wasserstein, *args: object) -> dict[str, torch.Tensor]:
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Wasserstein, "step", interrupted)
        assert main([*arguments, "--out", str(out)]) == 130
    assert f"fasteraa search --resume {out}" in capsys.readouterr().err

    opened = []
    open_dataset = sources.open_dataset
    monkeypatch.setattr(
        sources,
        "open_dataset",
        lambda name, **options: opened.append((name, options["data_dir"])) or open_dataset(name, **options),
    )
    # Another dataset and other settings beside --resume are not used.
    assert main(["cifar10", "--resume", str(out), "--epochs", "7"]) == 0
    assert opened == [("digits", str(tmp_path / "data"))]
    assert Policy.load(out / "policy.json") == Policy.load(tmp_path / "whole" / "policy.json")
    assert rows(out) == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mnist"],
            "dataset should be one of digits, cifar10, .*, or module:callable, but got 'mnist' instead",
        ),
        (
            ["digits", "--dataset", "cifar10"],
            "one dataset or shards should be given, but got digits and cifar10 instead",
        ),
        (
            ["--dataset", "a:b", "--shards", "c", "d"],
            "one dataset or shards should be given, but got a:b and c d instead",
        ),
        (["no_such_module:own"], "dataset 'no_such_module:own' was not found: No module named 'no_such_module'"),
        (["--balanced"], "num_images should be given for a balanced subset, but got None instead"),
        (["cifar10", "--data-dir", "nowhere"], "cifar10 was not found in 'nowhere' .*--data-dir, .*--download .*"),
        (["--resume", "nowhere"], "nowhere holds no run to resume"),
        (["--batch-size", "7"], r"batch_size should be even \(half is augmented\), but got 7 instead"),
        (["--epochs", "0"], "epochs should be positive, but got 0 instead"),
        (["--preset", "paper", "--num-images", "16"], "batch_size is 128, but there are 16 images; lower it"),
        (
            ["--preset", "paper", "--critic", "vgg"],
            f"critic should be one of {', '.join(NETWORKS)} or module:callable, but got 'vgg' instead",
        ),
        (
            ["--preset", "paper", "--critic", "no_such_module:net"],
            "critic 'no_such_module:net' was not found: No module named 'no_such_module'",
        ),
        (["--contenders", "trivial"], "contenders should be among none, .*; but got 'trivial' instead"),
        (["--exclude", "blur"], "operations should be among shear_x, .*, but got 'blur' instead"),
        (["--device", "gpu"], r"device should be auto or one that PyTorch finds, but got 'gpu' \(.*\)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unusable_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(f"error: {message}\n", printed.err)
    assert re.fullmatch(
        r"(1,797 samples; .*\n)?(1,797 of 1,797 images, .*\n)?", printed.out
    )  # what was loaded before it failed
    assert not list(tmp_path.rglob("*.json"))


def test_a_folder_that_holds_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.json").write_text("precious")
    assert main([*TINY, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds a run already; resume it, or choose another folder\n"
    assert (tmp_path / "policy.json").read_text() == "precious"


def test_out_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main([*TINY, "--out", str(out)]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_run_from_python_is_resumed_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).replace_json(tmp_path / "settings.json", {"settings": {}, "source": {}, "dataset": "mine"})
    assert main(["--resume", str(tmp_path)]) == 2
    error = f"error: {tmp_path} was searched from Python; resume it there, with search(…, resume=True)\n"
    assert capsys.readouterr().err == error


def test_ctrl_c_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "load_images", interrupted)
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "\ninterrupted before the first step\n"


def test_an_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--lernrate", "1"])
    assert caught.value.code == 2
    assert "--lernrate" in capsys.readouterr().err


# --- in a process of its own ------------------------------------------------------------------------------------------


def test_help_names_every_setting() -> None:
    result = subprocess.run(
        [sys.executable, "-m", MODULE, "--help"], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stderr
    found = set(re.findall(r"--[a-z][a-z-]*", result.stdout))
    names = [field.name for field in dataclasses.fields(Settings)]
    assert len(names) > 15
    assert {f"--{name.replace('_', '-')}" for name in names} <= found
    others = {
        "--dataset",
        "--shards",
        "--name",
        "--out",
        "--resume",
        "--data-dir",
        "--download",
        "--affinity-diversity",
    }
    assert others <= found
    for dataset in ("digits", "cifar10", "cifar100", "svhn", "imagenet"):
        assert dataset in result.stdout
    assert result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_and_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = flags(
        "--preset paper --epochs 4000 --num-images 64 --batch-size 32 --sub-policies 2 --stages 1 --image-size 8 "
        "--padding 1"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, *arguments, "--out", str(out)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has its background jobs, and so perhaps this test, ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + PATIENCE
        policy = out / "policy.json"
        while not (policy.exists() and Policy.load(policy).provenance["epochs"]):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"fasteraa search --resume {out}" in errors
    assert (out / "checkpoint.pt").is_file()
    epochs = Policy.load(out / "policy.json").provenance["epochs"]
    assert isinstance(epochs, int)
    assert 1 <= epochs < 4000

    # The rest of 4,000 epochs is too long for a test: leave one.
    saved = files.read_checkpoint(out / "checkpoint.pt")
    about = json.loads(saved["about"])
    about["settings"]["epochs"] = epochs + 1
    files.write_checkpoint(out / "checkpoint.pt", saved | {"about": json.dumps(about)})
    (out / "settings.json").write_text(json.dumps(about))
    result = subprocess.run(
        [sys.executable, "-m", MODULE, "--resume", str(out)],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    assert f"wrote {out / 'policy.json'}" in result.stdout
    assert Policy.load(out / "policy.json").provenance["epochs"] == epochs + 1
    steps = [row["step"] for row in rows(out) if row["kind"] == "step"]
    assert steps == list(range(1, 2 * (epochs + 1) + 1))
