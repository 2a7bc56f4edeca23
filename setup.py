"""What pyproject.toml cannot say: a wheel holds the course as well as the module, so that it works without a clone.

The pages lie beside the module in the repository, and in a wheel inside it, under `lora_edu/shipped` (see `lora_edu/home.py`).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = (
    "notebooks/*.ipynb",
    "notebooks/solutions/*.ipynb",
    "notebooks/images/*",
    "benchmarks/results/*.json",
    "constraints.txt",
    "AGENTS.md",
)


class BuildWithCourse(build_py):
    """Copies the files of SHIPPED beside the module's; an editable install finds them in the clone."""

    def run(self) -> None:
        # setuptools builds into a folder that it never empties: a page that has been renamed would be shipped twice.
        shutil.rmtree(Path(self.build_lib) / "lora_edu", ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        for source, target in self.shipped().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def shipped(self) -> dict[Path, Path]:
        """File in the repository → where it goes."""
        target = Path(self.build_lib) / "lora_edu" / "shipped"
        found = {pattern: sorted(ROOT.glob(pattern)) for pattern in SHIPPED}
        missing = [pattern for pattern, files in found.items() if not files]
        if missing:
            raise FileNotFoundError(
                f"a wheel without {', '.join(missing)} would not be the course: build it in a whole checkout"
            )
        return {file: target / file.relative_to(ROOT) for files in found.values() for file in files}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self.shipped().values())]


setup(cmdclass={"build_py": BuildWithCourse})
