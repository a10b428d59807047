"""The commands. The only room that knows Hydra; may import everything below it, and imports nothing heavy before it is needed."""
