"""One file a chapter: its exercises, with hints and the checker of each. `*_loop.py`: what the checkers of chapter 05 try and watch."""
