"""What travels between an ingress and an engine replica beside Serve, and the sockets it travels on.

requests.py  one sequence to generate: it goes with the call on the engine's handle
frames.py    what an engine step has made for one ingress
sockets.py   the sockets for frames
curve.py     CurveZMQ sockets: addresses, keys, options
"""
