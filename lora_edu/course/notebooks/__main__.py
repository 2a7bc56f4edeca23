"""`python -m lora_edu.course.notebooks execute | fresh | render | guard | overrides`: see each one's --help."""

import argparse
import sys
import time
from pathlib import Path

from lora_edu.course.notebooks.files import chapters, execute, install_overrides
from lora_edu.course.notebooks.guard import guard
from lora_edu.course.notebooks.learner import fresh
from lora_edu.course.notebooks.pages import PAGES, render
from lora_edu.errors import LoRAEduError


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; 0 when all is well, 1 when a notebook is not, 2 for a mistaken command."""
    parser = argparse.ArgumentParser(prog="python -m lora_edu.course.notebooks", description="The chapters as files.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("execute", help="run and clean chapters in place (all, or those named: 03 05)")
    run.add_argument("chapter", nargs="*", help="a chapter's number; none means all, solutions too")
    run.add_argument("--timeout", type=int, default=600, metavar="S", help="seconds a cell may take (default 600)")
    copy = commands.add_parser(
        "fresh", help="copy a chapter, outputs cleared, into my_notebooks/; an older copy is kept under another name"
    )
    copy.add_argument("chapter", help="the chapter's number, as in 03")
    web = commands.add_parser("render", help="write chapters as HTML, folded cells folded; nothing is run")
    web.add_argument("chapter", nargs="*", help="a chapter's number; none means all, solutions too")
    web.add_argument("--to", type=Path, default=PAGES, metavar="FOLDER", help=f"where to (default {PAGES.as_posix()})")
    rules = commands.add_parser("guard", help="name every rule that a committed notebook breaks")
    rules.add_argument("chapter", nargs="*", help="a chapter's number; none means all, solutions too")
    commands.add_parser("overrides", help="tell this environment's JupyterLab to save widgets")
    chosen = parser.parse_args(arguments)
    try:
        return _do(chosen)
    except LoRAEduError as error:
        print(error, file=sys.stderr)
        return 1


def _do(chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "execute":
            for path in chapters(chosen.chapter):
                start = time.monotonic()
                execute(path, chosen.timeout)
                print(f"{path}: {time.monotonic() - start:.0f} s", flush=True)
        case "fresh":
            copy, kept = fresh(chosen.chapter)
            print(f"Yours to change: {copy}" + (f"\nYour older copy is now {kept}" if kept else ""))
        case "render":
            for path in chapters(chosen.chapter):
                print(render(path, chosen.to), flush=True)
        case "guard":
            faults = [fault for path in chapters(chosen.chapter) for fault in guard(path)]
            print("\n".join(faults) or "every notebook keeps the rules")
            return int(bool(faults))
        case "overrides":
            print(install_overrides())
    return 0


if __name__ == "__main__":
    sys.exit(main())
