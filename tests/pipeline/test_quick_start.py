"""The quick start runs as it is pasted, on a machine without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_quick_start_runs_as_pasted_without_a_gpu(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "quick-start.md").read_text("utf-8")
    assert page.count("## Search on your own images") == 1
    before = page.partition("## Search on your own images")[0]  # what follows runs with the other pages
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", before, re.DOTALL | re.MULTILINE))
    assert "DeviceLoader(" in code
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "photo.jpg")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-W", "error:::__main__", "-"],
        input=code,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    # The rest of the page does not take a GPU for granted either.
    for line in re.findall(r'^.*"cuda".*$', page, re.MULTILINE):
        assert "torch.cuda.is_available()" in line
