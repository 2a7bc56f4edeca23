"""The laws that one LoRA layer must obey; `lora_edu.course.lawbook.runner` runs them."""
