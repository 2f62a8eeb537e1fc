"""What an engine generates before it is ready, so that no user is the first with anything.

rounds.py       the plan of rounds, from a config
step_shapes.py  lengths of a step that the kernels of the experts are compiled for
"""
