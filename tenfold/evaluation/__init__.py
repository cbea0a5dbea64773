"""A run → understanding: scores, calibration, plots, reports.

Matplotlib keeps a cache in the user's home. Where that cannot be written, as in many containers, it makes a temporary
folder and warns at length; neither that nor the time that its fonts take is of any concern to who asked for a plot.
"""

import logging


def _concerns_users(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not ("cache directory" in text or text.startswith("mkdir -p failed") or "building the font cache" in text)


for _name in ("matplotlib", "matplotlib.font_manager"):
    logging.getLogger(_name).addFilter(_concerns_users)
