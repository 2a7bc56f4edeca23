"""The course as a website that needs no server: `python docs/build.py` (or `make site`), then open site/index.html.

Nothing is run; the pages show their stored outputs. Exit code 1 when the site does not stand by itself.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def build(target: Path, source: Path, only: str = "*") -> list[str]:
    """Write the website into the folder `target`, emptied first, by way of the folder `source`. Returns what is wrong with it."""
    from links import faults
    from sphinx.cmd.build import build_main
    from staging import stage

    made = source.parent / "html"  # myst-nb leaves a folder beside what it writes: not in the clone
    stage(source, only)
    shutil.rmtree(made, ignore_errors=True)
    status = build_main(
        ["-q", "-b", "html", "-c", str(HERE), "-d", str(source.parent / "doctrees"), str(source), str(made)]
    )
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(made, target)
    for template in (target / "_static").glob("*webpack-macros.html"):  # of the theme's own making; no page
        template.unlink()
    return [*(["Sphinx gave up"] if status else []), *faults(target)]


def main() -> int:
    """Build as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE.parent / "site", help="the website's folder (default: site)")
    parser.add_argument(
        "--source",
        type=Path,
        default=HERE.parent / "build" / "site" / "source",
        help="where its sources are put together",
    )
    parser.add_argument("--only", default="*", help="notebooks whose names match, as in '0[0-3]*' (default: all)")
    chosen = parser.parse_args()
    start = time.monotonic()
    wrong = build(chosen.to, chosen.source, chosen.only)
    print(
        "\n".join(wrong)
        or f"{chosen.to / 'index.html'}: every link leads somewhere, and nothing comes from another host"
    )
    print(f"{time.monotonic() - start:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
