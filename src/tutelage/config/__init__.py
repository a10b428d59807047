"""From the words of a command to a resolved, typed and checked configuration. Alone, with the plugins, knows Hydra and OmegaConf."""
