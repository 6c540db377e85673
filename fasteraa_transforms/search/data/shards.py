"""Images in tar files laid out as webdataset has them, read in one pass."""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from fasteraa_transforms.search.data.samples import Encoded

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "tif", "tiff")
"""Endings of a sample's image, the first one found being taken."""


class Shards:
    """An iterable dataset of the samples in webdataset shards: an image file, and its label as a number in ``.cls``.

    Images are decoded by whoever needs them; a search decodes those of its subset only. Needs the extra ``webdataset``.

    Args:
        urls: files or what else webdataset opens, braces as in ``train-{000..146}.tar`` expanded. Those that begin with
            ``pipe:`` are run by a shell.

    Raises:
        ImportError: webdataset is not installed; says how to install it.
        ValueError: while iterating: a sample without image or label, or a shard that is no whole tar file.
        FileNotFoundError: while iterating: no such shard.

    Source: https://github.com/webdataset/webdataset, "The WebDataset Format".

    Example:
        >>> Shards("train-{000..002}.tar").urls
        ['train-000.tar', 'train-001.tar', 'train-002.tar']
    """

    def __init__(self, urls: str | Sequence[str]) -> None:
        try:
            from webdataset.shardlists import expand_urls
        except ImportError as error:
            raise ImportError(f'{error}; shards need: pip install "fasteraa_transforms[webdataset]"') from error
        self.urls = [url for each in ([urls] if isinstance(urls, str) else urls) for url in expand_urls(each)]

    def __iter__(self) -> Iterator[tuple[Encoded, int]]:
        # Not by webdataset.WebDataset, which gives a process of several its part: all are to draw the same subset.
        from webdataset.gopen import gopen
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for url in self.urls:
            with closing(gopen(url)) as stream:
                try:
                    for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
                        yield _pair(sample, f"{url}:{sample['__key__']}")
                except tarfile.TarError as error:
                    reason = error.args[0]  # webdataset adds what it was reading to the others
                    raise ValueError(f"shard {url} should be a whole tar file, but was not ({reason})") from error


def _pair(sample: dict[str, Any], name: str) -> tuple[Encoded, int]:
    """Image and label of a sample."""
    ending = next((each for each in IMAGES if each in sample), None)
    if ending is None or "cls" not in sample:
        files = ", ".join(f".{key}" for key in sample if not key.startswith("__"))
        raise ValueError(f"sample {name} should have an image (.{', .'.join(IMAGES)}) and .cls, but has {files}")
    try:
        label = int(sample["cls"])
    except ValueError:
        text = sample["cls"][:40]
        raise ValueError(f".cls of sample {name} should be a whole number, but got {text!r} instead") from None
    return Encoded(sample[ending], f"{name}.{ending}"), label
