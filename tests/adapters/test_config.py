"""The configuration: validated, and the same on PEFT's disk."""

import json
import math

import pytest

from lora_edu.adapters import LoRAConfig
from lora_edu.adapters.config import scaling
from lora_edu.errors import ConfigError


def test_patterns_override_rank_alpha_and_scaling_at_the_end_of_a_name():
    config = LoRAConfig(
        r=8, lora_alpha=16, rank_pattern={"q_proj": 4, r"layers\.1\..*": 2}, alpha_pattern={"q_proj": 12}
    )
    assert [
        config.rank_for(n) for n in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "k_proj")
    ] == [4, 2, 8]
    assert config.scaling_for("x.q_proj") == 3
    assert config.scaling_for("xq_proj") == 2  # the pattern must begin at a dot
    assert LoRAConfig(r=16, lora_alpha=8, use_rslora=True).scaling_for("a") == scaling(16, 8, True) == 2


def test_a_written_configuration_reads_back_equal_through_json():
    config = LoRAConfig(
        r=4, target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2}, modules_to_save=["lm_head"]
    )
    assert LoRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, "r=0"),
        ({"r": 2.5}, "r=2.5"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern"),
        ({"lora_alpha": 0}, "lora_alpha=0"),
        ({"lora_alpha": math.nan}, "lora_alpha=nan"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
        ({"target_modules": []}, "target_modules is empty"),
        ({"target_modules": "q_proj("}, "regular expression"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"modules_to_save": "lm_head"}, "is a string"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, words):
    with pytest.raises(ConfigError, match=words):
        LoRAConfig(**settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"use_bdlora": True}, "use_bdlora"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"rr": 3}, "rr"),
    ],
)
def test_what_would_change_the_arithmetic_is_refused_not_dropped(content, words):
    with pytest.raises(ConfigError, match=words):
        LoRAConfig.from_dict(content)
