"""A contact sheet: clips of episodes, each a row of frames above the actions taken meanwhile.

Every action dimension is a small curve, scaled to the range it has in all clips; the action under
the middle of a frame is the one recorded with it, which leads to the next frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidwm.data.clip import Episode

CLIP_FRAMES, SHOWN = 24, 8  # frames a clip spans; those of them that are drawn
PANEL = 128  # width of a drawn frame in pixels
GAP, MARGIN, TITLE, CURVES = 2, 8, 18, 72  # pixels
# Colours that stay apart for colour-blind readers (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A cut of an episode: frames (T, 3, H, W) uint8 and actions (T, A), from frame `start` on."""

    episode_id: str
    start: int
    frames: np.ndarray
    actions: np.ndarray
    task: str


def cut_clip(episode: Episode, rng: np.random.Generator) -> Clip:
    """A random clip, shorter where the episode is."""
    length = min(len(episode), CLIP_FRAMES)
    start = int(rng.integers(len(episode) - length + 1))
    stop = start + length
    return Clip(
        episode_id=episode.id,
        start=start,
        frames=episode.frames[start:stop].copy(),  # the rest of the episode may go
        actions=episode.actions[start:stop],
        task=episode.task,
    )


def contact_sheet(clips: Sequence[Clip], action_names: Sequence[str]) -> Image.Image:
    """Names of the actions in their colours, then a title, frames and curves per clip."""
    height = max(round(PANEL * clip.frames.shape[2] / clip.frames.shape[3]) for clip in clips)
    row = TITLE + height + GAP + CURVES + MARGIN
    width = 2 * MARGIN + SHOWN * (PANEL + GAP) - GAP
    legend, lines = _legend(action_names, width)
    top = MARGIN + lines * TITLE
    sheet = Image.new("RGB", (width, top + row * len(clips)), "white")
    pen = ImageDraw.Draw(sheet)
    for x, y, text, colour in legend:
        pen.text((x, y), text, fill=colour, font=_font())
    rows = np.concatenate([clip.actions for clip in clips])
    low, high = rows.min(axis=0), rows.max(axis=0)
    for number, clip in enumerate(clips):
        _draw_clip(sheet, pen, clip, top + number * row, height, low, high)
    return sheet


def save_contact_sheet(sheet: Image.Image, path: Path) -> None:
    """Write the PNG, making its folder; a failure leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        sheet.save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _draw_clip(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    clip: Clip,
    top: int,
    height: int,
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    length = len(clip.frames)
    title = f"{clip.episode_id}  frames {clip.start} to {clip.start + length - 1}  {clip.task}"
    pen.text((MARGIN, top), _printable(title), fill="black", font=_font())
    places = np.linspace(0, length - 1, min(SHOWN, length)).round().astype(int)
    for column, place in enumerate(places):
        image = Image.fromarray(clip.frames[place].transpose(1, 2, 0))
        size = (PANEL, round(PANEL * image.height / image.width))
        small = image.width < PANEL
        image = image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.BOX)
        sheet.paste(image, (MARGIN + column * (PANEL + GAP), top + TITLE))
    floor = top + TITLE + height + GAP
    right = MARGIN + len(places) * (PANEL + GAP) - GAP
    pen.rectangle((MARGIN, floor, right, floor + CURVES), outline="#dddddd")
    middles = MARGIN + np.arange(len(places)) * (PANEL + GAP) + PANEL / 2
    across = np.interp(np.arange(length), places, middles)
    for dim in range(clip.actions.shape[1]):
        span = high[dim] - low[dim]
        share = (clip.actions[:, dim] - low[dim]) / span if span > 0 else np.full(length, 0.5)
        down = floor + CURVES - 4 - share * (CURVES - 8)
        points = [(float(x), float(y)) for x, y in zip(across, down, strict=True)]
        pen.line(points, fill=COLOURS[dim % len(COLOURS)], width=2, joint="curve")
        if length == 1:
            pen.ellipse((points[0][0] - 2, points[0][1] - 2, points[0][0] + 2, points[0][1] + 2))


def _legend(names: Sequence[str], width: int) -> tuple[list[tuple[int, int, str, str]], int]:
    """(x, y, text, colour) of each name, wrapped to `width`, and the number of lines."""
    placed, x, line = [], MARGIN, 0
    for dim, name in enumerate(names):
        text = _printable(name)
        needed = round(_font().getlength(text)) + 14
        if x > MARGIN and x + needed > width - MARGIN:
            x, line = MARGIN, line + 1
        placed.append((x, MARGIN // 2 + line * TITLE, text, COLOURS[dim % len(COLOURS)]))
        x += needed
    return placed, line + 1


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()


def _printable(text: str) -> str:
    """What the built-in font can show; other letters become question marks."""
    return text.encode("latin-1", "replace").decode("latin-1")
