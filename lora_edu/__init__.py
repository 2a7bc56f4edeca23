"""lora-edu: a course on LoRA and the module under it."""
