"""One file a chapter: its exercises, with hints and the checker of each."""
