"""The laws that one LoRA layer must obey; `lora_edu.course.laws` runs them."""
