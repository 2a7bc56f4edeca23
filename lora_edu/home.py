"""Where the course's files lie: beside the module in a clone, inside it where a wheel was installed.

`setup.py` puts into a wheel what lies outside the module and a learner needs: the pages, and the stored results that they show.
"""

from pathlib import Path

_MODULE = Path(__file__).resolve().parent
SHIPPED = _MODULE / "shipped"  # made when a wheel is built; a clone has none


def course_root() -> Path | None:
    """The folder that holds `notebooks/` and `benchmarks/results/`; None where the module was copied without them."""
    return next((root for root in (_MODULE.parent, SHIPPED) if (root / "notebooks").is_dir()), None)


def in_clone() -> bool:
    """Whether the module runs from a clone of the repository (and not from an installed wheel)."""
    return course_root() == _MODULE.parent
