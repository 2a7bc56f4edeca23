"""One file a chapter: its self-test."""
