"""The few pieces of HTML that the report is made of. Everything given is escaped here."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --paper:#fff; --card:#f6f7f9; --ink:#1d2127; --soft:#59616c;
  --line:#dfe3e8; --accent:#0072b2; --good:#00795a; --bad:#b23c00; --curves:#fff; }
@media screen and (prefers-color-scheme: dark) { :root { --paper:#131417; --card:#1b1d21;
  --ink:#e6e6e6; --soft:#a2a9b3; --line:#343840; --accent:#4aa8e0; --good:#2fbf91;
  --bad:#ff9560; --curves:#1b1d21; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { margin: .4rem 0; max-width: 75ch; }
.wide { max-width: none; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 99px;
  padding: 0 .6rem; font-size: .85rem; vertical-align: .2em; margin-left: .6rem;
  font-weight: normal; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: normal; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.bar { min-width: 12rem; vertical-align: middle; }
meter { width: 100%; height: .8rem; }
.scroll { overflow-x: auto; } .tall { max-height: 34rem; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: var(--paper); }
figure { margin: 0 0 1.25rem; }
img { max-width: 100%; height: auto; border-radius: 6px; }
.panel { background: #fff; border: 1px solid var(--line); }
.curves { background: var(--curves); width: 100%; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem .9rem; margin: .4rem 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .86rem; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
.note { border-left: 3px solid var(--line); padding: .2rem .9rem; color: var(--soft); }
@media print { body { max-width: none; padding: 0; font-size: 11pt; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { max-height: none; overflow: visible; } }
"""


class Cell(NamedTuple):
    """A table cell: its text, its class, and for a bar the part of 1 that it fills."""

    text: str
    kind: str = ""
    fill: float | None = None


def escape(text: object) -> str:
    """Returns text that is safe between tags and inside attributes."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph; kind `note` marks what is missing."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """Returns preformatted text."""
    return f"<pre><code>{escape(text)}</code></pre>"


def section(heading: str, *parts: str) -> str:
    """Returns a section with its heading, linkable by the heading's words."""
    anchor = "-".join("".join(c if c.isalnum() else " " for c in heading.lower()).split())
    head = f'<h2 id="{anchor}">{escape(heading)}</h2>'
    return f'<section aria-labelledby="{anchor}">{head}{"".join(parts)}</section>'


def folded(summary: str, *parts: str) -> str:
    """Returns parts that open at a click."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def _cell(cell: Cell | str, tag: str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    attribute = f' class="{escape(cell.kind)}"' if cell.kind else ""
    scope = ' scope="row"' if tag == "th" else ""
    content = escape(cell.text)
    if cell.fill is not None:
        part = min(max(cell.fill, 0.0), 1.0)
        content = f'<meter min="0" max="1" value="{part:.4f}" aria-hidden="true"></meter>'
    return f"<{tag}{scope}{attribute}>{content}</{tag}>"


def table(
    headings: Sequence[Cell | str], rows: Iterable[Sequence[Cell | str]], tall: bool = False
) -> str:
    """Returns a table whose first column names the rows; wide ones scroll, `tall` ones too."""
    cells = (Cell(h) if isinstance(h, str) else h for h in headings)
    head = "".join(f'<th scope="col" class="{escape(c.kind)}">{escape(c.text)}</th>' for c in cells)
    body = "".join(
        f"<tr>{_cell(row[0], 'th')}{''.join(_cell(cell, 'td') for cell in row[1:])}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll{" tall" * tall}" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _data_uri(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def picture(
    file: Path, alt: str, caption: str = "", kind: str = "panel", dark: Path | None = None
) -> str:
    """Returns a PNG embedded with its alternative text; `dark` is shown on dark screens."""
    image = f'<img class="{escape(kind)}" alt="{escape(alt)}" src="{_data_uri(file)}">'
    if dark is not None:
        media = "screen and (prefers-color-scheme: dark)"
        source = f'<source media="{media}" srcset="{_data_uri(dark)}">'
        image = f"<picture>{source}{image}</picture>"
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{words}</figure>"


def page(title: str, *parts: str) -> str:
    """Returns the whole document; it needs no network and no script."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
