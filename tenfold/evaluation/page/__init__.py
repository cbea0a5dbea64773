"""Values → one HTML file that needs no network: templates, style and script lie beside this file."""

from tenfold.evaluation.page.render import comparison_page, report_page
from tenfold.evaluation.page.trust import trust_section

__all__ = ["comparison_page", "report_page", "trust_section"]
