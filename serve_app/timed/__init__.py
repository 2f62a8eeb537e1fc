"""An engine without a model: it generates at a set rate, and everything above it is the real path.

engine.py   the replica, in place of `serve_app.engine`
answers.py  what it says
"""
