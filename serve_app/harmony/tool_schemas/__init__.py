"""JSON schemas of tools as the prompt shows them: types in the style of TypeScript.

section.py  the tools of a conversation
types.py    the type that a schema describes
reader.py   what a schema says at one place: references followed, `allOf` merged
place.py    one place of a schema, and what its keywords are about
text.py     comments, names and values
"""
