"""vlrft: reinforcement fine-tuning of vision-language models with rewards that can be verified.

    import vlrft
    run = vlrft.train("detection/bccd_tiny", "data.root=data/bccd", train__steps=200)
    results = vlrft.evaluate(run)

The command line says the same: `vlrft train detection/bccd_tiny data.root=data/bccd train.steps=200`. Importing this
package loads neither torch nor transformers; the first call of `train` or `evaluate` does. The training loop lives in
`vlrft.stages`: a submodule named `train` would replace the function `vlrft.train` once it is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlrft.compose import Composed, ConfigError
    from vlrft.config import Config
    from vlrft.eval.run import Results
    from vlrft.stages import Run

__all__ = ["Config", "ConfigError", "Results", "Run", "__version__", "data", "evaluate", "recipes", "rewards", "train"]

__version__ = "0.1.0"

_LAZY = {
    "Config": "vlrft.config:Config",
    "ConfigError": "vlrft.compose:ConfigError",
    "Results": "vlrft.eval.run:Results",
    "Run": "vlrft.stages:Run",
    "compose": "vlrft.compose",
    "data": "vlrft.data",
    "recipes": "vlrft.recipes",
    "rewards": "vlrft.rewards",
}


def __getattr__(name: str) -> Any:
    """Public names that cost an import are loaded on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vlrft' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    """What is public, loaded or not."""
    return sorted(__all__)


def train(
    recipe: str | Path | Mapping[str, Any] | Config | None = None,
    *dotlist: str,
    overrides: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    **changes: Any,
) -> Run:
    """Run every stage of a recipe and return the finished run.

    recipe: a packaged name (`"detection/bccd_tiny"`), a YAML file (`"./my.yaml"`), a mapping or a `Config`.
    dotlist: overrides as on the command line, `"train.learning_rate=1e-5"`.
    overrides: the same as a mapping from dotted keys to Python values, `{"train.steps": 3}`.
    changes: the same as keywords, a double underscore for each dot: `train__steps=3`.
    Later wins, in the order dotlist, overrides, changes.
    resume: folder of an interrupted run. It goes on from its last complete checkpoint with its own config; no recipe
    is given then, and of the config only what `config_keys.RESUMABLE` names may change. Or "auto", with a recipe: go
    on with its run in `train.output_dir`, start one where there is none, return a finished one as it is.

    Raises `vlrft.ConfigError` before any compute is spent when the config is not valid.
    """
    from vlrft.config_keys import RESUMABLE, is_resumable
    from vlrft.log import UserError

    auto = resume == "auto"
    if recipe is None and (resume is None or auto):
        raise UserError("give a recipe ('vlrft recipes ls' lists them), or resume=RUN_DIR to go on with a run")
    if recipe is not None and resume is not None and not auto:
        raise UserError("give a recipe or resume=RUN_DIR, not both: a resumed run has its own config")
    run_dir = Path(resume).expanduser() if resume is not None and not auto else None
    source = recipe if run_dir is None else _config_of_run(run_dir)
    asked = _overrides(dotlist, overrides, changes)
    if run_dir is not None and (refused := [key for key in _keys(asked) if not is_resumable(key)]):
        raise UserError(
            f"a resumed run keeps its own config, so that it ends as if it had never stopped; leave out {refused[0]} "
            f"({', '.join(RESUMABLE)} may change), or start a new run with it: from the weights of this one with "
            f"model.model_name_or_path={run_dir / 'model'}"
        )
    composed = _compose(source, asked)

    from vlrft import stages
    from vlrft.eval.run import evaluate_samples

    return stages.run(composed, resume=run_dir, evaluator=evaluate_samples, changed=bool(asked), auto=auto)


def evaluate(
    source: Run | str | Path | Mapping[str, Any] | Config,
    *dotlist: str,
    overrides: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Results:
    """Score the held-out rows (`data.eval`) with the metrics of `eval.metrics`, decoding as `eval` says.

    source: a `Run` or its folder (its trained model is evaluated), or a recipe (its model as it starts).
    dotlist, overrides, changes: as in `train`, applied to the run's or the recipe's config.

    Raises `vlrft.ConfigError` before any compute is spent when the config is not valid.
    """
    from vlrft.config import Config

    run_dir = None
    if isinstance(source, str | Path) and Path(source).expanduser().is_dir():
        run_dir = Path(source).expanduser()
    elif not isinstance(source, str | Path | Mapping | Config):
        run_dir = source.path
    recipe = source if run_dir is None else _config_of_run(run_dir)
    composed = _compose(recipe, _overrides(dotlist, overrides, changes))

    from vlrft.eval import run as evaluation

    return evaluation.evaluate(composed, run_dir=run_dir)


def _overrides(
    dotlist: tuple[str, ...], overrides: Mapping[str, Any] | None, changes: Mapping[str, Any]
) -> list[str | Mapping[str, Any]]:
    mappings = dict(overrides or {}), {key.replace("__", "."): value for key, value in changes.items()}
    return [*dotlist, *(mapping for mapping in mappings if mapping)]


def _keys(asked: list[str | Mapping[str, Any]]) -> list[str]:
    return [key for item in asked for key in ([item.partition("=")[0]] if isinstance(item, str) else item)]


def _compose(recipe: Any, asked: list[str | Mapping[str, Any]]) -> Composed:
    from vlrft.compose import compose

    return compose(recipe, asked)


def _config_of_run(run_dir: Path) -> Path:
    from vlrft.log import UserError

    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(f"no run in {run_dir}: config.yaml is missing; give the folder that 'vlrft train' wrote to")
    return path
