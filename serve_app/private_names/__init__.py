"""The private names of vLLM, xgrammar, Triton's kernels and Ray that this package uses, as data.

of_vllm.py, of_xgrammar.py, of_ray.py  the lists; docs/upgrading.md has them as a table
name.py                                what an entry is, and whether the installed versions have the name
check.py                               the check at the start of whatever uses them

A private name is one that its library does not promise to keep: it begins with an underscore or stands in a
`_private` module, or it belongs to vLLM and `vllm/__init__.py` does not export it.
"""

from serve_app.private_names.check import NAMES, check, usable
from serve_app.private_names.name import PrivateName, PrivateNameError

__all__ = ["NAMES", "PrivateName", "PrivateNameError", "check", "usable"]
