from .gguf_adapter import write_adapter_gguf as write_adapter_gguf
from .gguf_model import write_gguf as write_gguf
from .gguf_tokenizer import verify_tokens as verify_tokens
from .llama_cpp import LlamaCpp as LlamaCpp
from .portable import write_portable as write_portable
from .rules import RULES as RULES
from .rules import features_of as features_of
