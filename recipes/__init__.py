"""Recipes by task, one YAML file each: data of the package, listed by `vlrft recipes ls`."""

if __name__ != "vlrft.recipes":  # pragma: no cover - guarded by tests/test_layout.py
    raise ModuleNotFoundError("import vlrft.recipes, not recipes")
