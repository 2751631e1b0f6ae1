"""eval"""

if __name__ != "vlrft.eval":  # pragma: no cover - guarded by tests/test_layout.py
    raise ModuleNotFoundError("import vlrft.eval, not eval")
