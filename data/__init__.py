"""Data: sources, tasks, media and samplers. Rows in, checked Samples out; no torch."""

if __name__ != "vlrft.data":  # pragma: no cover - guarded by tests/test_layout.py
    raise ModuleNotFoundError("import vlrft.data, not data")
