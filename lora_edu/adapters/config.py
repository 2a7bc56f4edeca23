"""What an adapter is, in PEFT's own key names, validated. Chapter 03.

A configuration that PEFT wrote is read here, and what is written here PEFT reads: there is no second vocabulary.
Keys that change the arithmetic and that this module does not implement are refused, never dropped in silence.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

from lora_edu.errors import ConfigError

# PEFT keys that describe something other than the arithmetic; they are read past.
_HARMLESS = {
    "peft_type", "peft_version", "auto_mapping", "inference_mode", "revision", "runtime_config", "loftq_config", "eva_config",
    "corda_config", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
    "bias", "lora_ga_config",
}  # fmt: skip


@dataclass(frozen=True)
class LoRAConfig:
    """One adapter: ΔW = s·B A with s = α/r (s = α/√r with `use_rslora`). Source: Hu et al. 2021, §4.1. Chapter 03.

    Each option says beside it what it does; `lora-edu train --help` shows the same words. Raises ConfigError that names the key and
    what it may be.
    """

    r: Annotated[int, "Rank, at least 1."] = 8
    lora_alpha: Annotated[float, "α; the update is scaled by α/r."] = 16
    lora_dropout: Annotated[float, "Probability of zeroing an entry of the adapter's input while training."] = 0.0
    target_modules: Annotated[
        str | tuple[str, ...],
        "all-linear, one regular expression (matched whole), or name suffixes with commas: q_proj,v_proj.",
    ] = "all-linear"
    exclude_modules: Annotated[str | tuple[str, ...] | None, "In the same forms; what it matches gets no adapter."] = (
        None
    )
    layers_to_transform: Annotated[
        tuple[int, ...] | None, "Indices of the layers to adapt: 0,1,2. Only with a list of suffixes, as in PEFT."
    ] = None
    rank_pattern: Annotated[
        Mapping[str, int],
        "Other ranks for some modules, as pattern=r,…; the first that matches the end of a module's name wins.",
    ] = field(default_factory=dict)
    alpha_pattern: Annotated[Mapping[str, float], "Other α for some modules, in the same form."] = field(
        default_factory=dict
    )
    use_rslora: Annotated[bool, "Scale by α/√r instead of α/r (Kalajdzievski 2023)."] = False
    modules_to_save: Annotated[
        tuple[str, ...] | None, "Modules that train in full beside the adapter, and are saved with it."
    ] = None
    init_lora_weights: Annotated[
        bool | str, "true (A uniform in ±1/√in, as PEFT and loralib) or gaussian (std 1/r); B is 0."
    ] = True
    fan_in_fan_out: Annotated[bool, "Weights stored as (in, out), as in GPT-2; found out at injection."] = False
    task_type: Annotated[str | None, "What PEFT takes the model for."] = "CAUSAL_LM"
    base_model_name_or_path: Annotated[str | None, "The base that the adapter belongs to; `save` fills it in."] = None

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, str) and self.target_modules.lower() == "all-linear":
            object.__setattr__(self, "target_modules", "all-linear")  # PEFT takes any capitals
        for key in ("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save"):
            value = getattr(self, key)
            if isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, key, (value,))
            elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
                # A set has no order of its own: sorted, so that two runs write the same file.
                object.__setattr__(self, key, tuple(sorted(value) if isinstance(value, set | frozenset) else value))
        if isinstance(self.modules_to_save, str):
            raise ConfigError(
                f'modules_to_save="{self.modules_to_save}" is a string: give a list, ["{self.modules_to_save}"]'
            )
        for key, rank in {"r": self.r, **{f"rank_pattern[{k!r}]": v for k, v in self.rank_pattern.items()}}.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ConfigError(f"{key}={rank!r}: a rank is a whole number of at least 1 (8 is a good start)")
        for key, alpha in {
            "lora_alpha": self.lora_alpha,
            **{f"alpha_pattern[{k!r}]": v for k, v in self.alpha_pattern.items()},
        }.items():
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
                raise ConfigError(f"{key}={alpha!r}: α is a positive number (a common choice is 2·r)")
        if not isinstance(self.lora_dropout, int | float) or not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout={self.lora_dropout!r}: a probability in [0, 1); 0 switches it off")
        if not self.target_modules:
            raise ConfigError('target_modules is empty: name the modules to adapt, or use "all-linear"')
        if self.init_lora_weights not in (True, "gaussian"):
            raise ConfigError(
                f'init_lora_weights={self.init_lora_weights!r}: use True (uniform A, zero B) or "gaussian" (normal A, zero B)'
            )
        regexes = [*self.rank_pattern, *self.alpha_pattern]
        regexes += [x for x in (self.target_modules, self.exclude_modules) if isinstance(x, str)]
        for regex in regexes:
            try:
                re.compile(regex)
            except re.error as error:
                raise ConfigError(f"{regex!r} is no regular expression: {error}") from error

    def rank_for(self, name: str) -> int:
        """The rank of the module called `name`, patterns applied."""
        return _by_pattern(self.rank_pattern, name, self.r)

    def alpha_for(self, name: str) -> float:
        """The α of the module called `name`, patterns applied."""
        return _by_pattern(self.alpha_pattern, name, self.lora_alpha)

    def scaling_for(self, name: str) -> float:
        """s of the module called `name`: α/r, or α/√r with `use_rslora`."""
        return scaling(self.rank_for(name), self.alpha_for(name), self.use_rslora)

    def to_dict(self) -> dict[str, Any]:
        """The content of PEFT's `adapter_config.json`."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        plain |= {"rank_pattern": dict(self.rank_pattern), "alpha_pattern": dict(self.alpha_pattern)}
        return {"peft_type": "LORA", "bias": "none", "inference_mode": True, "use_dora": False, **plain}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LoRAConfig":
        """Read PEFT's `adapter_config.json`.

        Raises ConfigError for another method than LoRA, a bias that trains, and every key set to something that would
        change the arithmetic and is not implemented here (DoRA, for one).
        """
        if content.get("peft_type", "LORA") != "LORA":
            raise ConfigError(f"peft_type={content['peft_type']!r}: this package reads LoRA adapters only")
        if content.get("bias", "none") != "none":
            raise ConfigError(
                f"bias={content['bias']!r}: such an adapter changes biases of the base as well, so that switching it off "
                'would not return the base; train it again with bias="none"'
            )
        known = {f.name for f in fields(cls)}
        refused = [k for k, v in content.items() if k not in known | _HARMLESS and v]
        if refused:
            raise ConfigError(
                f"unknown or unsupported settings: {', '.join(sorted(refused))}; known are {', '.join(sorted(known))}"
            )
        given = {k: v for k, v in content.items() if k in known}
        for key in ("rank_pattern", "alpha_pattern"):
            given[key] = given.get(key) or {}
        return cls(**given)


def scaling(r: int, lora_alpha: float, use_rslora: bool = False) -> float:
    """s = α/r (Hu et al. 2021, §4.1), or α/√r (Kalajdzievski 2023). Chapter 03; the difference is chapter 10's."""
    return lora_alpha / math.sqrt(r) if use_rslora else lora_alpha / r


def _by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):  # PEFT's rule: the pattern matches the end of the name
            return value
    return default
