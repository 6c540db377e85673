"""A search takes twice the memory of its images before it begins, and of thousands of photographs a gigabyte.

``FASTERAA_PHOTOGRAPHS=4000 python -m pytest -s -m stress tests/search/test_memory.py`` searches on so many.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasteraa_transforms.policy import Policy

COUNT = int(os.environ.get("FASTERAA_PHOTOGRAPHS", "200"))
ALL = 4000
CLASSES, DISTINCT = 4, 40
SIDE = 64

RACE = (
    f"--image-size {SIDE} --contenders none uniform --network resnet9-4 --race-images 100 --race-epochs 2 "
    "--replicates 1 --processes 2 --device cpu"
)
ADVERSARIAL = (
    f"--preset paper --image-size {SIDE} --num-images {COUNT} --epochs 1 --batch-size 32 --sub-policies 2 --stages 1 "
    "--critic small --device cpu"
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `COUNT` photographs of 12 megapixels in `CLASSES` classes: `DISTINCT` files under many names."""
    folder = tmp_path_factory.mktemp("photographs")
    wave = 90 + 50 * np.sin(np.arange(4000) / 20) + 40 * np.sin(np.arange(3000) / 90)[:, None]
    picture = np.stack([wave, wave[::-1], wave[:, ::-1]], 2).astype(np.uint8)
    for number in range(DISTINCT):
        Image.fromarray(picture + np.uint8(number)).save(folder / f"{number}.jpg", quality=90)
    for number in range(COUNT):
        link = folder / "data" / f"class {number % CLASSES}" / f"{number:04}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / f"{number % DISTINCT}.jpg", link)
    return folder / "data"


def peaks(session: int) -> dict[int, int]:
    """The largest memory that each process of a session has had, in bytes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of = int((folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[3])
            status = (folder / "status").read_text("utf-8", "replace") if of == session else ""
        except OSError:  # it has ended meanwhile
            continue
        if "VmHWM" in status:
            found[int(folder.name)] = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return found


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize(
    ("options", "most"),
    [pytest.param(RACE, 2**30, id="race"), pytest.param(ADVERSARIAL, 1.1 * 2**30, id="adversarial")],
)
def test_the_memory_of_a_search_on_4000_photographs_of_12_megapixels(
    photographs: Path, options: str, most: float, tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fasteraa_transforms.search", str(photographs), *options.split(), "--out", str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        largest: dict[int, int] = {}
        while process.poll() is None:
            largest |= peaks(process.pid)
            time.sleep(0.2)
    assert process.returncode == 0, said.read_text("utf-8")
    assert Policy.load(out / "policy.json").provenance["images"] == COUNT
    print(f"{COUNT} photographs: {', '.join(f'{each / 1e6:.0f} MB' for each in largest.values())}")
    # The images that are missing to 4,000 would be loaded, too; all else is of the same size.
    assert max(largest.values()) + max(ALL - COUNT, 0) * 3 * SIDE**2 < most, largest


BEFORE_THE_FIRST_STEP = """
import sys
import torch
from fasteraa_transforms.search import Settings, search
from fasteraa_transforms.search.algorithm import loop
from fasteraa_transforms.search.runtime.pool import Pool

torch.set_num_threads(1)

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

class Photographs:
    def __init__(self, count):
        self.targets = [i % 2 for i in range(count)]
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, index):
        return torch.full((3, 96, 96), index % 256, dtype=torch.uint8), index % 2

class FirstStep(Exception):
    pass

def first_step(*arguments):
    peaks.append(peak())
    raise FirstStep

peaks, (what,) = [], sys.argv[1:]
loop._epoch = Pool.run = first_step
if what == "race":
    settings = Settings(
        contenders=("none", "uniform"), num_images=8000, network="resnet9-4", race_images=32, race_epochs=1,
        trainings=2, replicates=1, processes=2, device="cpu",
    )
else:
    settings = Settings.paper(objective=what, critic="small", batch_size=8, num_images=8000, device="cpu")
for count in (600, 8000):
    try:
        search(Photographs(count), settings, out=f"run of {count}", progress=False)
    except FirstStep:
        pass
print((peaks[1] - peaks[0]) / (8000 * 3 * 96 * 96))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("what", ["race", "wasserstein", "gradient-matching"])
def test_a_search_takes_at_most_twice_the_memory_of_the_images_before_its_first_step(what: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BEFORE_THE_FIRST_STEP, what],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert 0.5 < float(result.stdout) < 2
