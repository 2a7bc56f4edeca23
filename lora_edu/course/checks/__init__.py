"""One file a chapter: its exercises, with hints and the checker of each; beside them what larger checkers try, watch and judge by."""
