"""What pictures were when they were encoded, so that one is noticed that was replaced under its name since.

That is three numbers a picture: the size of its file, when that was changed, and its CRC-32. The last one is compared
where the time alone is another, as of a copied folder. Where pictures lie in a tar, its time is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowar.data.image_source import ImageSource
from flowar.data.opening import check_length
from flowar.storage.checksums import crc32_of
from flowar.system.files import open_regular

UNREADABLE = (-1, -1, -1)


def stamps(source: ImageSource, indices: Sequence[int]) -> Tensor:
    """Size, time of change in nanoseconds and CRC-32 of pictures by number, int64 [N, 3]; -1 of one that is unreadable,
    CRC-32 -1 of one that is too large to be read.

    They are 0 where the fingerprint of the source depends on the pixels already.
    """
    known = [(index, *size_and_time(source, index)) for index in indices]
    return torch.tensor([(size, time, crc32(source, index, size)) for index, size, time in known]).view(-1, 3)


def changed(source: ImageSource, indices: Sequence[int], known: Tensor) -> list[int]:
    """The numbers of those pictures that are not what they were when they had the stamps `known` [N, 3]."""
    found = []
    for index, (size, time, crc) in zip(indices, known.tolist(), strict=True):
        size_now, time_now = size_and_time(source, index)
        if size_now != size or (time_now != time and crc32(source, index, size) != crc):
            found.append(index)
    return found


def size_and_time(source: ImageSource, index: int) -> tuple[int, int]:
    """The first two stamps of a picture."""
    part = source.part(index)
    if part is None:
        return 0, 0
    try:
        about = part.file.stat()
    except OSError:
        return UNREADABLE[:2]
    return about.st_size if part.size is None else part.size, about.st_mtime_ns


def crc32(source: ImageSource, index: int, size: int) -> int:
    """The third stamp of a picture of so many bytes."""
    part = source.part(index)
    if part is None:
        return 0
    try:
        check_length(size)
        with open_regular(part.file) as file:
            file.seek(part.offset)
            return crc32_of(file, size)
    except (OSError, ValueError):
        return UNREADABLE[2]
