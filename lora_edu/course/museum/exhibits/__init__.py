"""A file a room; each exhibit is built broken and sound, with the assertion that tells."""
