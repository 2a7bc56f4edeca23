"""`python -m lora_edu …` is `lora-edu …`, for machines where the command is not on the path."""

from lora_edu.cli import main

main()
