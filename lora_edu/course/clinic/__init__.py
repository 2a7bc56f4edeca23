"""The clinic of chapter 06: runs with a fault each, and the game of naming it."""
