"""Policy files that were made to cost memory, and what loading each of them costs.

Run as a program, it writes each file, loads it in a process of its own, and prints a line of JSON: name, bytes of the
file, bytes of memory, seconds, and the error. The memory is that of the whole process, as Linux counts it, so that it
includes what pydantic's own parser takes.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from fasteraa_transforms import Policy, PolicyError

WEIGHT, VERSION = '"weight":-1', '"version":2'
FLIP = '{"operation":"flip","weight":1,"probability":1}'


def document(sub_policies: str, after: str = "", before: str = "") -> str:
    head = f'{{"format":"fasteraa-policy","version":1,"name":"a",{before}'
    return f'{head}"sub_policies":{sub_policies}{after}}}'


def times(unit: str, size: int) -> str:
    """So many units, separated by commas, that they have about ``size`` characters."""
    return ",".join([unit] * (size // (len(unit) + 1)))


def keys(size: int) -> str:
    return ",".join(f'"{i:x}":1' for i in range(size // 11))


def cases(size: int) -> Iterator[tuple[str, str]]:
    """Names and texts of files of about ``size`` bytes that are refused."""
    stage = f"[[[{times(FLIP, size)}]]]"
    yield "empty candidates", document(f"[[[{times('{}', size)}]]]")
    yield "empty lists", document(f"[[[{times('[]', size)}]]]")
    yield "empty stages", document(f"[[{times('[]', size)}]]")
    yield "empty sub-policies", document(f"[{times('[]', size)}]")
    yield "numbers for candidates", document(f"[[[{times('1', size)}]]]")
    yield "strings for candidates", document(f"[[[{times(chr(34) + 'ab' + chr(34), size)}]]]")
    yield "one candidate wrong, the last", document(f"[[[{times(FLIP, size)},{{}}]]]")
    yield "one sub-policy wrong, the last", document(f"[{times(f'[[{FLIP}]]', size)},[[{{}}]]]")
    yield "one stage too many, the last", document(f"[{times(f'[[{FLIP}]]', size)},[[{FLIP}],[{FLIP}]]]")
    yield (
        "one weight that vanishes",
        document(f"[[[{times(FLIP, size)},{FLIP.replace('1', '1e-320', 1)},{FLIP.replace('1', '1e308', 1)}]]]"),
    )
    yield "version of the future, at the end", document(stage, after=',"version":2')
    yield "text behind the end", document(stage) + "x"
    yield "cut off", document(stage)[:-4]
    yield "nested lists", document("[" * size)
    yield "nested objects", '{"a":' * (size // 5)
    yield "nested candidates", document(f"[[[{times('[' * 150 + ']' * 150, size)}]]]")
    yield "nested provenance", document("[[[{}]]]", f',"provenance":{{"a":[{times("[[[[]]]]", size)}]}}')
    yield "provenance of objects", document("[[[{}]]]", f',"provenance":{{"a":[{times("{}", size)}]}}')
    yield "provenance of numbers", document("[[[{}]]]", f',"provenance":{{"a":[{times("0.5", size)},NaN]}}')
    yield "provenance of keys", document("[[[{}]]]", f',"provenance":{{{keys(size)}}}')
    yield "a number of many digits", document(f"[[[{FLIP.replace('1', '1' * size, 1)}]]]")
    yield "a fraction of many digits", document(f"[[[{FLIP.replace('1', '0.' + '1' * size, 1)}]]]")
    yield "a long string", document("[[[{}]]]", before=f'"format":"{"a" * size}",')
    yield "a long string of wide characters", document("[[[{}]]]", before=f'"x":"\U0001f600{"a" * size}",')
    yield "a long string of escapes", document(f'[[[{{"operation":"{chr(92)}n{(chr(92) + "n") * (size // 2)}"}}]]]')
    yield "a long key", document("[[[{}]]]", before=f'"{"a" * size}":1,')
    yield "a string without an end", '"' + "a" * size
    yield "many keys", document(f"[[[{FLIP}]]]", after=f",{keys(size)}")
    yield "many keys of a candidate", document(f"[[[{FLIP[:-1]},{keys(size)}}}]]]")
    yield (
        "the same key of a candidate",
        document(f"[[[{FLIP[:-1]},{times(WEIGHT, size)}}}]]]"),
    )
    yield (
        "the same key of the file",
        document(f"[[[{FLIP}]]]", after=f",{times(VERSION, size)}"),
    )
    yield "a wrong key of each candidate", document(f"[[[{times(FLIP[:-1] + ',' + keys(11) + '}', size)}]]]")
    yield "space", document(f"[[[{' ' * size}{{}}]]]")
    yield "a list for the file", f"[{times('{}', size)}]"


def peak() -> int:
    """The largest memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measured(name: str, path: Path) -> dict[str, object]:
    """What loading a file, and drawing from it if it is a policy, costs a process that has loaded others before."""
    # Pages of the libraries count for a process that has been forked as soon as it looks at them, whatever the file is.
    small = path.with_name("small.json")
    for text in (document("[[[{}]]]", ',"provenance":{"a":[0.5,"b"]}'), document(f"[[[{FLIP}]]]", ',"other":1')):
        small.write_text(text, encoding="utf-8")
        with suppress(PolicyError):
            Policy.load(small)
    if name == "valid":
        # The first policy that a process draws from costs pages of the libraries, whatever it is.
        first = Policy.from_json(document(f"[[[{times(FLIP, 8000)}]]]"))
        first.sample(128)
        first.sample_one()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is now what the process has now
    before, start = peak(), time.perf_counter()
    try:
        policy = Policy.load(path)
        policy.sample(128)
        policy.sample_one()
        error = None
    except PolicyError as refused:
        error = str(refused)
    seconds = time.perf_counter() - start
    return {"name": name, "size": path.stat().st_size, "memory": peak() - before, "seconds": seconds, "error": error}


def main(size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    Policy.from_json(document(f"[[[{FLIP}]]]"))  # imports what a check needs
    wide = ",".join([FLIP] * 2000)
    valid = ("valid", document(f"[{times(f'[[{FLIP}]]', 52 * 2000)},[[{wide}]]]"))
    for name, text in (valid, *cases(size)):
        path = folder / "policy.json"
        path.write_text(text, encoding="utf-8")
        del text
        child = os.fork()
        if child == 0:
            print(json.dumps(measured(name, path)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, name


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(int(sys.argv[1]), Path(sys.argv[2]))
