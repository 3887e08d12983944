"""The verdict under the name that the file formats promise to other programs.

It lives in `steersweep.run.verdict`; code of this package imports it from there.
"""

from steersweep.run.verdict import Verdict, verdict

__all__ = ["Verdict", "verdict"]
