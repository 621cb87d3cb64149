"""For scripts that were written for the PiXYZ scheduler: see `pixyz_worker.script`."""
