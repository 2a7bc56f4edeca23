"""Turn the README's badges into links that open the course on each service: `python hosted/badges.py OWNER/NAME`, once its address is known.

Until then they lead to the files that make each service work. CITATION.cff learns the address, too.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BADGES = {  # the badge's picture: (the file that it leads to without an address, the address that opens the course)
    "hosted/colab.svg": (
        "hosted/colab.ipynb",
        "https://colab.research.google.com/github/{}/blob/main/hosted/colab.ipynb",
    ),
    "hosted/codespaces.svg": (".devcontainer/devcontainer.json", "https://codespaces.new/{}"),
    "hosted/binder.svg": (
        "binder/requirements.txt",
        "https://mybinder.org/v2/gh/{}/HEAD?urlpath=lab/tree/my_notebooks/00_start_here.ipynb",
    ),
}


def addressed(readme: str, repository: str) -> str:
    """The README with its badges leading to the services for `repository`, OWNER/NAME on GitHub. Raises ValueError for another form."""
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not OWNER/NAME")
    for picture, (_, address) in BADGES.items():
        readme, count = re.subn(
            rf"(\({re.escape(picture)}\)\]\()[^)]+\)", lambda m, to=address: f"{m[1]}{to.format(repository)})", readme
        )
        if count != 1:
            raise ValueError(f"the README shows {picture} {count} times")
    return readme


def cited(citation: str, repository: str) -> str:
    """CITATION.cff with the address of `repository`."""
    kept = re.sub(r"^repository-code: .*\n", "", citation, flags=re.MULTILINE)
    return re.sub(
        r"^(license: )", rf'repository-code: "https://github.com/{repository}"\n\1', kept, count=1, flags=re.MULTILINE
    )


if __name__ == "__main__":
    for name, change in (("README.md", addressed), ("CITATION.cff", cited)):
        text = change((ROOT / name).read_text("utf-8"), sys.argv[1])
        (ROOT / name).write_text(text, encoding="utf-8")
