"""Prints the lease as a PDF of two columns with tables and bookmarks: boatyard_lease.pdf.

    python examples/texts/boatyard_lease_pdf.py      # needs fpdf2

The layout is one that readers of PDFs get wrong: columns, words hyphenated at the ends of lines,
a head and a foot on each page, tables.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

HERE = Path(__file__).parent
ENDINGS = re.compile(r"(?<=[a-z]{4})(?=(?:ance|ation|ings?|ment|builders|able|rupted|ship)\b)")
MARGIN, TOP, GUTTER, LINE = 20, 26, 8, 4.6  # millimetres
FIRST_TABLE = "SCHEDULE A. Rent by year"


class Printed(FPDF):
    """Pages of two columns, with a head and a foot."""

    def header(self) -> None:
        self.set_font("Times", "I", 8)
        self.cell(0, 5, "Harbour Trust of Tarn Quay - Oakum & Daughters", align="R")
        self.set_xy(MARGIN, TOP)
        self.left = True

    def footer(self) -> None:
        self.set_xy(MARGIN, -15)
        self.set_font("Times", "", 8)
        self.cell(0, 5, f"Page {self.page_no()} of {{nb}}", align="C")

    def in_columns(self, text: str, style: str) -> None:
        """Write a paragraph, going on in the right column and on the next page."""
        self.set_font("Times", style, 10)
        width = (self.w - 2 * MARGIN - GUTTER) / 2
        lines = self.multi_cell(width, LINE, text, dry_run=True, output="LINES")
        for number, line in enumerate(lines):
            if self.y + LINE > self.h - MARGIN - 5:
                if self.left:
                    self.left = False
                    self.set_y(TOP)
                else:
                    self.add_page()
            self.set_x(MARGIN if self.left else MARGIN + width + GUTTER)
            if style and not number:
                self.start_section(text)
            self.cell(width, LINE, line, new_y="NEXT")


def printed(text: str) -> FPDF:
    title, *paragraphs = text.removeprefix("Title: ").strip().split("\n\n")
    articles = paragraphs[: paragraphs.index(FIRST_TABLE)]
    pdf = Printed()
    pdf.set_creation_date(datetime(2025, 3, 14, tzinfo=UTC))
    pdf.set_title(title)
    pdf.set_margin(MARGIN)
    pdf.set_auto_page_break(False)
    pdf.add_page()
    pdf.set_font("Times", "B", 17)
    pdf.cell(0, 10, title, new_x="LMARGIN", new_y="NEXT")
    for paragraph in articles:
        heading = paragraph.startswith("ARTICLE")
        pdf.ln(2 if heading else 0)
        soft = paragraph if heading else ENDINGS.sub("\N{SOFT HYPHEN}", paragraph)
        pdf.in_columns(soft, "B" if heading else "")
    pdf.add_page()
    for paragraph in paragraphs[len(articles) :]:
        pdf.set_font("Times", "", 10)
        if " | " in paragraph:
            with pdf.table(line_height=LINE + 1, text_align="LEFT") as table:
                for line in paragraph.splitlines():
                    table.row(line.split(" | "))
            continue
        if paragraph.startswith("SCHEDULE"):
            pdf.ln(3)
            pdf.set_font("Times", "B", 10)
            pdf.start_section(paragraph)
        pdf.multi_cell(0, LINE, paragraph, new_x="LMARGIN", new_y="NEXT")
    return pdf


if __name__ == "__main__":
    text = (HERE / "boatyard_lease.txt").read_text(encoding="utf-8")
    printed(text).output(str(HERE / "boatyard_lease.pdf"))
