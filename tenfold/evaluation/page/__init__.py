"""Values → one HTML file that needs no network: templates, style and script lie beside this file."""

from tenfold.evaluation.page.picture import MOST_BYTES, Sheet, make_sheet
from tenfold.evaluation.page.render import comparison_page, report_page

__all__ = ["MOST_BYTES", "Sheet", "comparison_page", "make_sheet", "report_page"]
