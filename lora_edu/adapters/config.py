"""What an adapter is, in PEFT's own key names, validated. Chapter 03.

A configuration that PEFT wrote is read here, and what is written here PEFT reads: there is no second vocabulary.
Keys that change the arithmetic and that this module does not implement are refused, never dropped in silence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from lora_edu.adapters import patterns, variants
from lora_edu.errors import ConfigError, shown

# PEFT keys that describe something other than the arithmetic; they are read past.
_HARMLESS = {
    "peft_type", "peft_version", "auto_mapping", "inference_mode", "revision", "runtime_config", "loftq_config", "eva_config",
    "corda_config", "megatron_config", "megatron_core", "qalora_group_size", "bias", "lora_ga_config",
}  # fmt: skip
# How PEFT may have started the factors without touching the base: once their values are in a file, it does not matter.
_STARTS_LEFT_BEHIND = (None, False, "eva", "orthogonal")
_STARTS_IN_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LARGEST_RANK = 2**20
_LARGEST_ALPHA = 1e30  # far from where float32 ends


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
    layers_pattern: Annotated[
        str | tuple[str, ...] | None,
        "Name of the list that these layers are in (layers), where a path has several numbers.",
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
        tuple[str, ...] | None,
        "Modules that train in full beside the adapter, and are saved with it: every one whose name ends so.",
    ] = None
    init_lora_weights: Annotated[
        bool | str, "true (A uniform in ±1/√in, as PEFT and loralib) or gaussian (std 1/r); B is 0."
    ] = True
    fan_in_fan_out: Annotated[bool, "Weights stored as (in, out), as in GPT-2; found out at injection."] = False
    task_type: Annotated[str | None, "What PEFT takes the model for (CAUSAL_LM); `save` fills it in."] = None
    base_model_name_or_path: Annotated[str | None, "The base that the adapter belongs to; `save` fills it in."] = None
    ensure_weight_tying: Annotated[bool, "PEFT's switch for tied tables; only read from folders that have it."] = False
    changes_base: ClassVar[bool] = False  # what `attach`'s methods say of themselves
    virtual: ClassVar[bool] = False
    variant: Annotated[
        variants.Variant | Any,  # or its name, which becomes one
        f"Another kind of LoRA, by name: {', '.join(variants.names())}; settings as NAME:key=value,… (chapter 10).",
    ] = None

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, str) and self.target_modules.lower() == "all-linear":
            object.__setattr__(self, "target_modules", "all-linear")  # PEFT takes any capitals
        for key in ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"):
            value = getattr(self, key)
            if isinstance(value, int) and not isinstance(value, bool) and key == "layers_to_transform":
                object.__setattr__(self, key, (value,))
            elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
                # A set has no order of its own: sorted, so that two runs write the same file.
                object.__setattr__(self, key, tuple(sorted(value) if isinstance(value, set | frozenset) else value))
        self._check_names()
        for key, rank in {"r": self.r, **{f"rank_pattern[{k!r}]": v for k, v in self.rank_pattern.items()}}.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= _LARGEST_RANK:
                raise ConfigError(f"{key}={_quoted(rank)}: a rank is a whole number of at least 1 (8 is a good start)")
        for key, alpha in {
            "lora_alpha": self.lora_alpha,
            **{f"alpha_pattern[{k!r}]": v for k, v in self.alpha_pattern.items()},
        }.items():
            # (math.isfinite would raise for a whole number beyond float's range)
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= _LARGEST_ALPHA:
                raise ConfigError(f"{key}={_quoted(alpha)}: α is a positive number (a common choice is 2·r)")
        p = self.lora_dropout
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
            raise ConfigError(f"lora_dropout={_quoted(p)}: a probability in [0, 1); 0 switches it off")
        if isinstance(self.init_lora_weights, str) and self.init_lora_weights.startswith(_STARTS_IN_THE_BASE):
            raise ConfigError(
                f"init_lora_weights={_quoted(self.init_lora_weights)} takes the factors out of the base, which is then another one. To start "
                f"so here, where the base stays: variant=…, one of {', '.join(variants.names())}. For a folder that PEFT wrote so: have PEFT "
                "write it as plain LoRA (save_pretrained with path_initial_model_for_weight_conversion), and load that"
            )
        if self.init_lora_weights is not True and self.init_lora_weights != "gaussian":
            raise ConfigError(
                f'init_lora_weights={_quoted(self.init_lora_weights)}: use True (uniform A, zero B) or "gaussian" (normal A, zero B)'
            )
        for key in ("use_rslora", "fan_in_fan_out", "ensure_weight_tying"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key}={_quoted(getattr(self, key))}: true or false, without quotation marks")
        for key in ("task_type", "base_model_name_or_path"):
            if not isinstance(getattr(self, key), str | None):
                raise ConfigError(f"{key}={_quoted(getattr(self, key))}: a string, or nothing")
        if isinstance(self.variant, str):
            object.__setattr__(self, "variant", variants.named(self.variant) if self.variant else None)
        if not isinstance(self.variant, variants.Variant | None):
            raise ConfigError(f"variant={_quoted(self.variant)}: a name, such as {variants.names()[0]!r}, or nothing")
        if self.variant:
            self.variant.check(self)

    def _check_names(self) -> None:
        """What names modules: of the right form, and every regular expression one that ends."""
        if not self.target_modules:
            raise ConfigError('target_modules is empty: name the modules to adapt, or use "all-linear"')
        if isinstance(self.modules_to_save, str):
            raise ConfigError(
                f'modules_to_save="{self.modules_to_save}" is a string: give a list, ["{self.modules_to_save}"]'
            )
        for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
            value = getattr(self, key)
            if not (value is None or isinstance(value, str) or _all(value, str)):
                raise ConfigError(f"{key}={_quoted(value)}: a list of names, each of them a string")
        if not (self.layers_to_transform is None or _all(self.layers_to_transform, int)):
            raise ConfigError(f"layers_to_transform={_quoted(self.layers_to_transform)}: a list of whole numbers")
        for key in ("rank_pattern", "alpha_pattern"):
            value = getattr(self, key)
            if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
                raise ConfigError(f"{key}={_quoted(value)}: a mapping {{pattern: value}}")
        regexes = [*self.rank_pattern, *self.alpha_pattern, *(self.modules_to_save or ())]
        regexes += [x for x in (self.target_modules, self.exclude_modules) if isinstance(x, str)]
        regexes += [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or ()
        for regex in regexes:
            patterns.check(regex)

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
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "variant"}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
        plain |= {"rank_pattern": dict(self.rank_pattern), "alpha_pattern": dict(self.alpha_pattern)}
        plain = {"peft_type": "LORA", "bias": "none", "inference_mode": True, "use_dora": False, **plain}
        return self.variant.written(plain) if self.variant else plain

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LoRAConfig":
        """Read PEFT's `adapter_config.json`. Where it leaves something out, PEFT's default counts (α = 8).

        Raises ConfigError for another method than LoRA, a bias that trains, and every key set to something that would
        change the arithmetic and is not implemented here (DoRA, for one).
        """
        if not isinstance(content, Mapping):
            raise ConfigError(f"{_quoted(content)} is no configuration: it must be a mapping {{setting: value}}")
        content = dict(content)
        plain = content.get("peft_type", "LORA") == "LORA"
        variant = None if plain and not _unknown(cls, content) else variants.from_config(content)
        if content.get("peft_type", "LORA") != "LORA" and variant is None:
            raise ConfigError(f"peft_type={_quoted(content['peft_type'])}: this package reads LoRA adapters only")
        if content.get("bias", "none") != "none":
            raise ConfigError(
                f"bias={_quoted(content['bias'])}: such an adapter changes biases of the base as well, so that switching it off "
                'would not return the base; train it again with bias="none"'
            )
        if refused := _unknown(cls, content):
            raise ConfigError(
                f"unknown or unsupported settings: {', '.join(sorted(map(str, refused)))}; known are "
                f"{', '.join(sorted(f.name for f in fields(cls)))}"
            )
        names = {f.name for f in fields(cls)} - {"variant"}
        given = {k: v for k, v in content.items() if k in names}
        for key in ("rank_pattern", "alpha_pattern"):
            given[key] = given.get(key) or {}
        for key in ("use_rslora", "fan_in_fan_out", "ensure_weight_tying"):
            given[key] = False if given.get(key) is None else given[key]
        given.setdefault("lora_alpha", 8)
        if given.get("layers_pattern") in ("", []):
            given["layers_pattern"] = None
        start = given.get("init_lora_weights", True)
        if any(start is each or (isinstance(start, str) and start == each) for each in _STARTS_LEFT_BEHIND):
            given["init_lora_weights"] = True
        return cls(**given, variant=variant)


def scaling(r: int, lora_alpha: float, use_rslora: bool = False) -> float:
    """s = α/r (Hu et al. 2021, §4.1), or α/√r (Kalajdzievski 2023). Chapter 03; the difference is chapter 10's."""
    return lora_alpha / math.sqrt(r) if use_rslora else lora_alpha / r


def _by_pattern(by_pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for pattern, value in by_pattern.items() if patterns.at_the_end(pattern, name)), default)


def _unknown(kind: type, content: Mapping[str, Any]) -> list[str]:
    known = {f.name for f in fields(kind)} | _HARMLESS
    return [k for k, v in content.items() if k not in known - {"variant"} and v]


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, Sequence) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _quoted(value: Any) -> str:
    return shown(value, 60)
