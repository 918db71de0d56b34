# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Running a network over a canvas tile by tile: exactly or feathered, within the memory there is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sr_kernels.image.colour import BICUBIC_RADIUS, bicubic_enlarge
from sr_kernels.image.tiling import Span, Tile, blend_weights, spans
from sr_kernels.pipeline.canvas import Canvas
from sr_kernels.pipeline.network import Network

Progress = Callable[[int, int], None]

ALIGN = 24  # a multiple of the kernels' blocks: Winograd tiles of 4 and 6, vectors of 8
BLEND_HALO = 32  # half an overlap, where the receptive radius is unknown or too large to be exact
EXACT_LIMIT = 128  # the largest radius that is worth being exact
_LEAST_TILE = 16
_WHOLE = 128 * 128  # pixels that are never cut of our own accord
_LARGEST = 1008  # pixels a side that are converted at once where it makes no difference; a multiple of ALIGN
_CPU_BUDGET = 2**30
_BAND = 256  # rows of alpha at a time


def run(
    canvas: Canvas,
    network: Network,
    tile: int | None,
    halo: int | None,
    batch: int | None,
    progress: Progress | None,
) -> None:
    """Write the whole output of `canvas`. Out of memory halves the tile and begins again; MemoryError where
    the smallest tile does not fit either."""
    if halo is None:
        exact = network.radius is not None and network.radius <= EXACT_LIMIT
        halo = network.radius if exact and network.radius is not None else BLEND_HALO
    many = batch or 1
    size = tile or automatic_tile(network, canvas, halo, many) or max(canvas.height, canvas.width)
    while True:
        failure = ""
        try:
            _run_once(canvas, network, size, halo, many, progress)
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).splitlines()[0] if str(error) else "out of memory"
        # Here, not above: there the exception would keep the failed tile's tensors.
        if network.device.type == "cuda":
            torch.cuda.empty_cache()
        if many == 1 and size <= _LEAST_TILE:
            raise MemoryError(f"not enough memory for tiles of {size} pixels a side: {failure}")
        if many > 1:
            many //= 2
        else:
            size = max(min(size, max(canvas.height, canvas.width)) // 2, _LEAST_TILE)


def run_alpha(canvas: Canvas, scale: int) -> None:
    """Write the whole output of a canvas of one channel by bicubic enlargement, some rows at a time."""
    for rows in spans(canvas.height, _BAND, BICUBIC_RADIUS):
        y = bicubic_enlarge(canvas.read(0, rows.start, rows.stop, 0, canvas.width), scale)
        kept = y[:, :, (rows.first - rows.start) * scale : (rows.last - rows.start) * scale]
        canvas.write(0, rows.first * scale, 0, kept)


def automatic_tile(network: Network, canvas: Canvas, halo: int, batch: int) -> int | None:
    """The tile of which `batch` fit a share of the free memory; None where the whole picture does.

    Exact tiles are the whole picture's result, so no more than about a megapixel is converted at once then;
    cross-faded ones are not, so they are avoided as long as memory allows.
    """
    pixels = canvas.height * canvas.width
    together = min(batch, canvas.count)  # whole pictures
    if pixels * together <= _WHOLE:
        return None
    area = memory_budget(network.device) / network.bytes_per_pixel()
    exact = network.radius is not None and halo >= network.radius
    if pixels * together <= area and not (exact and pixels > _LARGEST**2):
        return None
    size = (int(math.sqrt(area / batch)) - 2 * halo) // ALIGN * ALIGN
    return max(min(size, _LARGEST) if exact else size, 4 * ALIGN)


def memory_budget(device: torch.device) -> int:
    """Bytes of working memory that a picture may take: half of what a GPU has free; at most 1 GiB and a
    quarter of what is free on the CPU, where running out ends the process rather than raising."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return min(_CPU_BUDGET, _free_memory() // 4)


def is_out_of_memory(error: BaseException) -> bool:
    """Only what allocators raise: any other RuntimeError is a fault to be shown."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _run_once(
    canvas: Canvas, network: Network, size: int, halo: int, batch: int, progress: Progress | None
) -> None:
    multiple = network.multiple
    height, width = (-(-n // multiple) * multiple for n in (canvas.height, canvas.width))
    align = math.lcm(ALIGN, multiple)
    rows, columns = (spans(n, _even(n, size, halo, align), halo, align) for n in (height, width))
    if network.radius is not None and halo >= network.radius:
        cut = [Tile(row, column) for row in rows for column in columns]
        _exact(canvas, network, cut, batch, progress)
    else:
        _feathered(canvas, network, rows, columns, halo // 2, batch, progress)


def _even(length: int, size: int, halo: int, align: int) -> int:
    """The smallest tile that needs no more windows than `size`: windows are of one size, so what the last
    one has to spare is computed twice."""
    inside = max(length - 2 * halo, 1)
    least = -(-inside // -(-inside // size))
    return min(size, -(-least // align) * align)


def _exact(canvas: Canvas, network: Network, cut: list[Tile], batch: int, progress: Progress | None) -> None:
    scale = network.scale
    work = [(index, tile) for index in range(canvas.count) for tile in cut]
    report = _counter(progress, len(work))
    for first in range(0, len(work), batch):
        group = work[first : first + batch]
        windows = [_window(canvas, i, tile.rows, tile.columns) for i, tile in group]
        for (index, tile), y in zip(group, network(_joined(windows)).split(1), strict=True):
            rows, columns = tile.rows, tile.columns
            kept = y[
                :,
                :,
                (rows.first - rows.start) * scale : (rows.last - rows.start) * scale,
                (columns.first - columns.start) * scale : (columns.last - columns.start) * scale,
            ]
            canvas.write(index, rows.first * scale, columns.first * scale, kept)
        report(len(group))


def _feathered(
    canvas: Canvas,
    network: Network,
    rows: list[Span],
    columns: list[Span],
    margin: int,
    batch: int,
    progress: Progress | None,
) -> None:
    """Overlapping windows cross-faded. Only one row of windows is held in floats; its lines are written as
    soon as no later window touches them."""
    scale = network.scale
    report = _counter(progress, canvas.count * len(rows) * len(columns))
    across = [torch.from_numpy(blend_weights(columns, i, margin, scale)) for i in range(len(columns))]
    for index in range(canvas.count):
        band = torch.zeros(0)
        for r, row in enumerate(rows):
            shape = (1, canvas.channels, (row.stop - row.start) * scale, columns[-1].stop * scale)
            carried, band = band, torch.zeros(shape, device=network.device)
            if r:
                band[:, :, : carried.shape[2]] = carried
            down = torch.from_numpy(blend_weights(rows, r, margin, scale))
            for first in range(0, len(columns), batch):
                group = range(first, min(first + batch, len(columns)))
                y = network(_joined([_window(canvas, index, row, columns[c]) for c in group]))
                for c, one in zip(group, y.split(1), strict=True):
                    weight = (down[:, None] * across[c]).to(network.device)
                    band[..., columns[c].start * scale : columns[c].stop * scale] += one * weight
                report(len(group))
            begin = row.start + margin if r else 0
            end = rows[r + 1].start + margin if r + 1 < len(rows) else row.stop
            canvas.write(
                index, begin * scale, 0, band[:, :, (begin - row.start) * scale : (end - row.start) * scale]
            )
            if r + 1 < len(rows):
                band = band[:, :, (rows[r + 1].start - row.start) * scale :].clone()


def _window(canvas: Canvas, index: int, rows: Span, columns: Span) -> Tensor:
    return canvas.read(index, rows.start, rows.stop, columns.start, columns.stop)


def _joined(windows: list[Tensor]) -> Tensor:
    return windows[0] if len(windows) == 1 else torch.cat(windows)


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0
    if progress:
        progress(0, total)

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return report


def _free_memory() -> int:
    """Bytes that the system and this process's control group would still give."""
    free = [2**34]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = [int(line.split()[1]) * 1024]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # another system, or no such control group: the figures found so far stand
    return max(min(free), 2**26)
