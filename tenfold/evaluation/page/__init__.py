"""Values → one HTML file that needs no network: templates, style and script lie beside this file."""

from tenfold.evaluation.page.render import comparison_page, report_page

__all__ = ["comparison_page", "report_page"]
