"""The shipped plan, read once and as text."""

from __future__ import annotations

import yaml

from steersweep.study.plan_file import load_plan

V3 = load_plan("v3")
TEXT = yaml.safe_dump(dict(V3.written), sort_keys=False)
