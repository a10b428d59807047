"""The grid of samples that a generator's run and a pseudo data set show: enlarged, by class, each class named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GRID_IMAGES = 64
"""The most that a grid shows."""
COLUMNS = 8
LEAST_PX = 64
"""Images are enlarged by a whole number until they are so wide, so that their pixels stay squares."""
_CAPTION_PX = 15
_GAP_PX = 4


def write_grid(images: Tensor, labels: Tensor, path: Path, *, classes: Sequence[str] | None = None) -> None:
    """Write images as PNG, sorted by class; a class is named above its first image, and again where a row begins.

    images: (n, C, H, W) in [0, 1]; what is outside is cut there. Other than three channels are shown as their mean, in grey.
    labels: (n,). classes: their names; None: they are called by their numbers.
    """
    from PIL import Image, ImageDraw

    order = labels.argsort(stable=True)
    names = [_name(int(label), classes) for label in labels[order]]
    pixels = images[order].detach().float().cpu().clamp(0, 1)
    if pixels.shape[1] != 3:
        pixels = pixels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    times = -(-LEAST_PX // pixels.shape[-1])
    large = pixels.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)
    tiles = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    height, width = (size + _GAP_PX for size in tiles.shape[1:3])
    columns, rows = min(COLUMNS, len(tiles)), -(-len(tiles) // COLUMNS)
    sheet = Image.new(
        "RGB", (columns * width + _GAP_PX, rows * (height + _CAPTION_PX) + _GAP_PX), (255, 255, 255)
    )
    pen = ImageDraw.Draw(sheet)
    for place, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        row, column = divmod(place, COLUMNS)
        corner = (column * width + _GAP_PX, row * (height + _CAPTION_PX) + _CAPTION_PX)
        sheet.paste(Image.fromarray(tile), corner)
        if column == 0 or names[place - 1] != name:
            text, font = _fitted(pen, name, width - _GAP_PX)
            pen.text((corner[0], corner[1] - 2), text, fill=(0, 0, 0), font=font, anchor="ls")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _name(label: int, classes: Sequence[str] | None) -> str:
    return str(classes[label]) if classes and label < len(classes) else f"class {label}"


def _fitted(pen: Any, text: str, width: int) -> tuple[str, Any]:
    """A name in the largest letters that fit; one that fits in none is cut."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    file = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # the letters of all other figures
    fonts = [ImageFont.truetype(file, size) for size in (12, 11, 10, 9, 8)]
    for font in fonts:
        if pen.textlength(text, font=font) <= width:
            return text, font
    while len(text) > 1 and pen.textlength(f"{text}…", font=fonts[-1]) > width:
        text = text[:-1]
    return f"{text}…", fonts[-1]
