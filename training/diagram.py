"""`python main.py --phase info --diagram FILE`: the networks as one SVG, drawn from the modules themselves.

A column for each kind of network, with the rows of --phase info: output shapes, parameters, multiply-adds.  The colour
of a row says which updates of a step train it.  The rows of a network that translate together with another one, such
as NICE-GAN's encoders, which are the discriminators' first layers, stand in a frame with an arrow to that network.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

import torch

from training.cost import countable, dry_run, kinds, short, totals
from utils import atomic, shown

WIDTH, ROW, GAP, MARGIN = 350, 44, 90, 24  # of a column, of a row, between columns, around all: pixels
HEAD = 76  # height of a column's title and input
LINE = 18  # height of a line of text
COLOURS = ("#cfe3f7", "#fbdcb8", "#d3efd0", "#e9d7f3", "#f6cfd4")  # of rows by the updates that train them
UNTRAINED = "#e8e8e8"


class Row(NamedTuple):
    """A module of a network, as --phase info lists it."""

    name: str
    shape: tuple
    parameters: int
    products: int  # multiply-adds
    trained: tuple[str, ...]  # names of the optimizers that train it
    shared: bool  # whether it translates while the rest of its network does not


class Column(NamedTuple):
    """A kind of network: the modules of one of them."""

    title: str
    names: list[str]
    input: str
    rows: list[Row]  # shared ones first
    feeds: list[str]  # for shared rows: "disA -> gen2B"


def columns(method: type, args) -> tuple[list[Column], list[str]]:
    """The columns, and a line of text for each update of a step."""
    trainer = dry_run(method, args)
    trained = {name: set(map(id, parameters)) for name, parameters in trainer.trained().items()}
    networks, found = trainer.networks(), []
    for title, names, x, rows in kinds(method, args):
        net, feeds, prefixes = module_of(networks, names[0]), [], None
        for s, t in trainer.directions:
            keys = trainer.inference_keys(s, t)
            for name in set(names) & keys.keys():
                if keys[name] != ("",) and len(keys) > 1:
                    prefixes = keys[name]
                    feeds += [f"{name} -> {other}" for other in keys if other != name]
        drawn = [drawn_row(row, net, trained, prefixes) for row in rows]
        drawn.sort(key=lambda row: not row.shared)
        inputs = " and ".join(map(by, (part.shape for part in (x if isinstance(x, tuple) else (x,)))))
        found.append(Column(title, names, inputs, drawn, feeds))
    return found, [of_update(update, networks, trained) for update in trainer.updates()]


def module_of(networks: dict, name: str) -> torch.nn.Module:
    """The module of a name in --phase info: a network, or NETWORK.PART."""
    network, _, part = name.partition(".")
    return networks[network].get_submodule(part)


def drawn_row(row: tuple, net: torch.nn.Module, trained: dict[str, set], prefixes: tuple | None) -> Row:
    """The row of training.cost with what trains it; prefixes: keys of what translates alone, or None."""
    name, *numbers = row
    own = {key: p for key, p in net.named_parameters() if key == name or key.startswith(f"{name}.")}
    updates = tuple(update for update, ids in trained.items() if any(id(p) in ids for p in own.values()))
    shared = prefixes is not None and any(key.startswith(prefixes) for key in own)
    return Row(name, *numbers, updates, shared)


def of_update(update, networks: dict, trained: dict[str, set]) -> str:
    """What an update trains: its networks, whole or in part, and their parameters."""
    parts, count = [], 0
    for name, net in networks.items():
        own = [p for p in net.parameters() if id(p) in trained[update.name]]
        count += sum(p.numel() for p in own)
        if own:
            whole = len(own) == len([*net.parameters()])
            parts.append(name if whole else f"{name} in part")
    return f"{update.name} ({update.total}) trains {', '.join(parts)}: {count:,} parameters"


def by(shape) -> str:
    return " x ".join(map(str, shape)) or "not run alone"


# ------------------------------------------------------------------------------------------------ SVG


def text(x: float, y: float, words: str, size: int = 13, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{more}>{escape(words)}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, stroke: str = "#555", width: float = 1) -> str:
    style = f'fill="{fill}" stroke="{stroke}" stroke-width="{width:g}"'
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" {style}/>'


def draw_row(row: Row, x: float, y: float, colours: dict[tuple, str]) -> list[str]:
    bold, right = ' font-weight="bold"', ' text-anchor="end"'
    return [
        box(x, y, WIDTH, ROW - 6, colours[row.trained]),
        text(x + 10, y + 16, row.name, more=bold),
        text(x + WIDTH - 10, y + 16, by(row.shape), more=right),
        text(x + 10, y + 32, f"{row.parameters:,} parameters", 11),
        text(x + WIDTH - 10, y + 32, f"{row.products:,} multiply-adds", 11, right),
    ]


def draw_column(column: Column, x: float, top: float, colours: dict[tuple, str]) -> tuple[list[str], float, float]:
    """The elements of a column; the y of the middle of its shared rows, and that of its end."""
    bold = ' font-weight="bold"'
    parts = [
        text(x, top + 16, column.title, 15, bold),
        text(x, top + 35, f"each of {', '.join(column.names)}"),
        text(x, top + 53, f"input {column.input}"),
    ]
    y, middle = top + HEAD, 0.0
    shared = sum(row.shared for row in column.rows)
    if shared:
        middle = y + shared * ROW / 2
        parts.append(box(x - 8, y - 8, WIDTH + 16, shared * ROW + LINE + 12, "none", "#b03030", 2))
    for i, row in enumerate(column.rows):
        parts += draw_row(row, x, y, colours)
        y += ROW
        if i == shared - 1:
            parts.append(
                text(x + 2, y + 10, f"encodes for translation: {', '.join(column.feeds)}", 12, ' fill="#b03030"')
            )
            y += LINE + 14
    parameters, products = (sum(row[i] for row in column.rows) for i in (2, 3))
    parts.append(text(x, y + 16, f"sum: {parameters:,} parameters, {products:,} multiply-adds", 12, bold))
    return parts, middle, y + LINE + 10


def svg(method: type, args) -> str:
    """The picture as text."""
    found, updates = columns(method, args)
    kinds_of_rows = list(dict.fromkeys(row.trained for column in found for row in column.rows))
    palette = {trained: COLOURS[i % len(COLOURS)] for i, trained in enumerate(filter(None, kinds_of_rows))}
    colours = {(): UNTRAINED} | palette
    width = max(760, 2 * MARGIN + len(found) * WIDTH + (len(found) - 1) * GAP)
    heading = f"{method.title()} at {args.img_size} x {args.img_size} pixels"
    parts, bottom, top = [text(MARGIN, MARGIN + 14, heading, 18, ' font-weight="bold"')], 0.0, MARGIN + 40.0
    middles = []
    for i, column in enumerate(found):
        elements, middle, end = draw_column(column, MARGIN + i * (WIDTH + GAP), top, colours)
        parts += elements
        middles.append(middle)
        bottom = max(bottom, end)
    for i, column in enumerate(found):
        for j, other in enumerate(found):
            if {feed.split(" -> ")[1] for feed in column.feeds} & {*other.names} and i != j:
                parts.append(arrow(i, j, middles[i], top + 49))
    y = bottom + 20
    for line in ["A step descends, in this order:", *updates]:
        parts.append(text(MARGIN, y, line, 13))
        y += LINE + 4
    for trained, colour in colours.items():
        if trained in kinds_of_rows:
            words = f"trained by {' and '.join(trained)}" if trained else "trained by no update"
            parts += [box(MARGIN, y - 12, 26, 16, colour), text(MARGIN + 36, y, words, 13)]
            y += LINE + 4
    y += 6
    parts.append(text(MARGIN, y, "All of them together:"))
    as_kinds = [(c.title, c.names, None, [row[:4] for row in c.rows]) for c in found]
    for title, (parameters, products) in totals(as_kinds).items():
        y += LINE
        parts.append(text(MARGIN, y, f"{title}: {short(parameters)} parameters, {short(products)} multiply-adds"))
    height = y + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
    head += f'height="{height:g}" font-family="sans-serif" role="img" fill="#111">'
    marker = '<marker id="head" markerWidth="6" markerHeight="6" refX="5" refY="3" orient="auto">'
    marker += '<path d="M0,0 L6,3 L0,6 z" fill="#b03030"/></marker>'
    background = f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>'
    lines = [head, f"<title>{escape(heading)}</title>", f"<defs>{marker}</defs>", background, *parts, "</svg>"]
    return "\n".join(lines) + "\n"


def arrow(i: int, j: int, start: float, end: float) -> str:
    """A curve from the shared rows of column i to the input of column j."""
    right = j > i
    x1 = MARGIN + i * (WIDTH + GAP) + (WIDTH + 8 if right else -8)
    x2 = MARGIN + j * (WIDTH + GAP) + (-6 if right else WIDTH + 6)
    bend = (x1 + x2) / 2
    path = f"M{x1:g},{start:g} C{bend:g},{start:g} {bend:g},{end:g} {x2:g},{end:g}"
    return f'<path d="{path}" fill="none" stroke="#b03030" stroke-width="2" marker-end="url(#head)"/>'


def write(method: type, args):
    """Write the picture to args.diagram.  UserError: it cannot be written."""
    path = Path(args.diagram)
    with countable(args):
        picture = svg(method, args)
    with atomic(path) as temporary:
        temporary.write_text(picture, encoding="utf-8")
    print(f"the networks are drawn in {shown(path)}")
