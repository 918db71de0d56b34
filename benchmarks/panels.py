# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures side by side with labels, and a part of each zoomed below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 20
TITLE, LABEL = 30, 24  # heights of the letters in pixels
PAPER, INK, FAINT, MARK = (255, 255, 255), (24, 24, 24), (110, 110, 110), (255, 214, 10)


@dataclass(frozen=True)
class Panel:
    """A picture, uint8 (H, W, 3), and what is written above it."""

    label: str
    pixels: np.ndarray


def comparison(
    title: str, note: str, panels: Sequence[Panel], crop: tuple[int, int, int, int]
) -> Image.Image:
    """The panels, all of one size, in a row; below each its part crop (left, top, right, bottom), as wide."""
    height, width = panels[0].pixels.shape[:2]
    left, top, right, bottom = crop
    zoomed = (width, round(width * (bottom - top) / (right - left)))
    heading = MARGIN + TITLE + MARGIN
    first = heading + LABEL + MARGIN // 2
    second = first + height + MARGIN // 2
    sheet = Image.new(
        "RGB",
        (MARGIN + (width + MARGIN) * len(panels), second + zoomed[1] + MARGIN + LABEL + MARGIN),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(TITLE))
    draw.text((MARGIN, second + zoomed[1] + MARGIN // 2), note, FAINT, ImageFont.load_default(LABEL - 4))
    for i, panel in enumerate(panels):
        x = MARGIN + i * (width + MARGIN)
        picture = Image.fromarray(panel.pixels)
        draw.text((x, heading), panel.label, INK, ImageFont.load_default(LABEL))
        sheet.paste(picture, (x, first))
        draw.rectangle(
            (x + left - 2, first + top - 2, x + right + 1, first + bottom + 1), outline=MARK, width=2
        )
        sheet.paste(picture.crop(crop).resize(zoomed, Image.Resampling.NEAREST), (x, second))
    return sheet
