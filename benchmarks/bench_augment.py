"""The rows of `augment` one by one under pytest-benchmark: ``python -m pytest benchmarks/bench_augment.py``.

For looking at a change; blocks do not take turns here, so compare libraries with `augment` itself.
"""

import augment
import pytest

augment.one_thread()


@pytest.mark.parametrize("name", augment.COMPETITORS)
@pytest.mark.parametrize("row", augment.ROWS, ids=lambda row: row.name)
def test_row(benchmark, row: augment.Row, name: str) -> None:
    call = augment.calls(row).get(name)
    if call is None:
        pytest.skip("not installed, or not for these images")
    inputs = augment.samples(row, name)
    benchmark.pedantic(call, setup=lambda: ((next(inputs),), {}), rounds=200 // row.images + 5, warmup_rounds=3)
