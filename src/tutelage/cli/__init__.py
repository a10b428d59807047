"""The commands, a thin file each; may import everything below, and import nothing heavy before it is needed."""
