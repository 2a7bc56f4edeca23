"""lora-edu: a course on LoRA (Low-Rank Adaptation) in which nothing is taken on trust, and the tested module under it.

The public names are few:

    model, tokenizer = load_base("smollm2-135m")
    inject(model, LoRAConfig(r=8, lora_alpha=16))
    print(audit(model))
    Trainer(...).train()
    save(model, "my_adapter"); load(model, "my_adapter"); merge(model)

They are imported on first use, so that `import lora_edu` itself is instant; `__init__.pyi` says where each lives, for type checkers
and for the interpreter alike.
"""

import lazy_loader

__version__ = "0.9.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
