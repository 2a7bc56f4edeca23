"""Chapter 15's table of names: every name is an option of the package under which it stands, and an empty place means that there is none."""

import inspect
from dataclasses import fields

import pytest
from helpers import ROOT

from lora_edu import LoRAConfig, TrainConfig
from lora_edu.course.option_names import SETTINGS, Setting, listed


def names(*classes):
    return {field.name for each in classes for field in fields(each)}


@pytest.fixture(scope="module")
def known():
    from peft import LoraConfig
    from transformers import TrainingArguments

    from lora_edu.cli.train import train

    common = names(TrainingArguments)
    return {
        "here": names(LoRAConfig, TrainConfig) | set(inspect.signature(train).parameters),
        "peft": names(LoraConfig),
        "trl": listed("trl").options | common,
        "llamafactory": listed("llamafactory").options | common,
    }


def unknown(settings, known):
    return [
        (s.means, place) for s in settings for place, all in known.items() if (n := getattr(s, place)) and n not in all
    ]


def missed(settings, known):
    """Places that are empty although the package has an option of one of the setting's other names."""
    return [
        (s.means, place)
        for s in settings
        for place, all in known.items()
        if not getattr(s, place) and any(n in all for n in s[1:] if n and n != "variant")
    ]


def test_every_name_is_in_its_list(known):
    assert unknown(SETTINGS, known) == [] and missed(SETTINGS, known) == []


def test_the_rule_can_fail(known):
    assert unknown([Setting("rank", "r", "r", "lora_rank", "lora_rank")], known) == [("rank", "trl")]
    assert missed([Setting("DoRA", "variant", "", "use_dora", "use_dora")], known) == [("DoRA", "peft")]


def test_the_list_says_where_it_comes_from():
    for package in ("trl", "llamafactory"):
        found = listed(package)
        assert found.version[0].isdigit() and len(found.date) == 10 and len(found.options) > 40
    assert "WHEELS" in (ROOT / "benchmarks" / "option_names.py").read_text("utf-8")
