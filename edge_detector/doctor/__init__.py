"""`edge-detector doctor`: looks at all that can be wrong with a machine, and says how to put it right."""
