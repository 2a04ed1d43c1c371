"""From a config to a finished run: build, state, drivers, loop, checkpoints."""
