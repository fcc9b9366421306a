"""The one table of docs/reliability.md: every program here replaces its own rows."""

from pathlib import Path

from adios_tf.reporting.tables import write_text

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- table of the programs in tests/faults -->\n", "<!-- end of table -->"
HEAD = "| program | fault | trials | outcome |\n|---|---|---|---|\n"


def write_rows(page: Path, program: str, rows: list[tuple[str, int, str]]) -> None:
    """Replaces a program's rows (fault, trials, outcome); makes a page that is not there."""
    text = page.read_text(encoding="utf-8") if page.exists() else BEGIN + HEAD + END
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    mine = f"| `{program}` |"
    kept = [line for line in text[start:stop].splitlines()[2:] if not line.startswith(mine)]
    kept += [f"{mine} {fault} | {trials:,} | {outcome} |" for fault, trials, outcome in rows]
    write_text(
        page, text[:start] + HEAD + "".join(f"{line}\n" for line in sorted(kept)) + text[stop:]
    )
