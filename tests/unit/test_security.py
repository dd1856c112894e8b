"""SECURITY.md: every flaw that it names has its case among the C tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CVE = re.compile(r"CVE-\d{4}-\d{4,7}")


def test_every_published_flaw_has_a_case_under_its_number() -> None:
    named = set(CVE.findall((ROOT / "SECURITY.md").read_text()))
    cases = (ROOT / "tests" / "native" / "test_picotcp_filter.c").read_text()
    tested = set(CVE.findall(cases))
    assert len(named) >= 17
    assert named == tested
