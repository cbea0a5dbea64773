"""Values → Matplotlib figures, fit for a paper: `save` or `to_png` turns one into bytes.

No pyplot and no lasting change of rcParams: figures are made by hand, in a style of their own that no matplotlibrc
reaches. Class names are drawn literally (a `$` starts no formula), in an installed font that has their letters where
there is one; letters that no font has become boxes, and a message says once what to install.
"""

from tenfold.evaluation.plots.classes import class_scores, confusion
from tenfold.evaluation.plots.curves import history
from tenfold.evaluation.plots.explanation import explanation
from tenfold.evaluation.plots.images import GALLERY_IMAGES, class_grid, gallery, misclassified
from tenfold.evaluation.plots.reliability import reliability
from tenfold.evaluation.plots.runs import accuracies, accuracy_and_time
from tenfold.evaluation.plots.search import search
from tenfold.evaluation.plots.style import save, to_png

__all__ = [
    "GALLERY_IMAGES",
    "accuracies",
    "accuracy_and_time",
    "class_grid",
    "class_scores",
    "confusion",
    "explanation",
    "gallery",
    "history",
    "misclassified",
    "reliability",
    "save",
    "search",
    "to_png",
]
