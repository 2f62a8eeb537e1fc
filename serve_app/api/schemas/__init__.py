"""JSON schemas that clients send, checked before anything is made of them.

validation.py  the first thing that is wrong with a schema, in a linear walk
keywords.py    what each keyword may be
references.py  where a schema's references lead
"""
