"""Draws stacks that were sampled as a flame picture: an SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from colorsys import hls_to_rgb
from html import escape
from zlib import crc32

import attrs

WIDTH, LINE, TOP = 1200, 16, 40
NARROWEST = 0.0015
"""Share of the whole below which a frame is left out."""
COLOURS = {"roost": (20, 80), "anyio": (200, 60), "psycopg": (120, 45), "asyncio": (270, 45)}
"""Hue and saturation by the first folder of a frame's file; others are gray."""


@attrs.define
class Node:
    """A frame under its callers, with the samples in it and in what it called."""

    name: str
    samples: int = 0
    called: dict[str, Node] = attrs.field(factory=dict)

    def add(self, stack: Sequence[str], samples: int) -> None:
        """Add a stack below this frame."""
        node = self
        node.samples += samples
        for name in stack:
            node = node.called.setdefault(name, Node(name))
            node.samples += samples


def flame(stacks: Mapping[tuple[str, ...], int], *, title: str) -> str:
    """Return the picture; the outermost frame of each stack, the caller, stands at the top."""
    root = Node("all")
    for stack, samples in stacks.items():
        root.add(stack, samples)
    boxes = list(_boxes(root, 0, 0.0, root.samples or 1))
    height = TOP + LINE * (max(depth for _, depth, _, _ in boxes) + 1) + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'{head} font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="24" font-size="15">{escape(title)}</text>',
        *(_drawn(*box) for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _boxes(
    node: Node, depth: int, left: float, whole: int
) -> Iterable[tuple[Node, int, float, float]]:
    share = node.samples / whole
    if share < NARROWEST:
        return
    yield node, depth, left, share
    for child in sorted(node.called.values(), key=lambda child: child.name):
        yield from _boxes(child, depth + 1, left, whole)
        left += child.samples / whole


def _drawn(node: Node, depth: int, left: float, share: float) -> str:
    x, y, width = left * WIDTH, TOP + depth * LINE, share * WIDTH
    room = int((width - 4) / 6.7)
    label = node.name.split(" (")[0]
    text = label if len(label) <= room else f"{label[: room - 1]}…" if room > 3 else ""
    caption = f'<text x="{x + 2:.1f}" y="{y + 11}">{escape(text)}</text>' if text else ""
    return (
        f"<g><title>{escape(node.name)}: {share:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.4):.1f}" height="{LINE - 1}"'
        f' fill="{_color(node.name)}"/>{caption}</g>'
    )


def _color(name: str) -> str:
    folder = name.rpartition("(")[2].split("/")[0]
    hue, saturation = COLOURS.get(folder, (0, 0))
    # A little lighter or darker, so that neighbors differ; the same function has the same shade.
    lightness = 72 + crc32(name.encode()) % 14
    rgb = hls_to_rgb(hue / 360, lightness / 100, saturation / 100)
    return "#" + "".join(f"{round(part * 255):02x}" for part in rgb)
