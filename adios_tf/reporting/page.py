"""The few pieces of HTML that the report is made of. Everything given is escaped here."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")


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
