"""How much memory a recipe needs on each device, before anything is started.

    made = plan(compose("./my.yaml"), gpus=8, gpu_memory=80 * 2**30)
    print(made.as_text())

The model is read without weights. Parameters, gradients and optimiser are sums; activations, logits and caches are
counted by running the trainer's own step and the engine's own prefill with tensors that have no memory (`shadow.py`).
"""

from __future__ import annotations

from dataclasses import replace

from vlrft.compose import Composed, stage_configs
from vlrft.config import Config
from vlrft.log import UserError
from vlrft.plan import four_bit
from vlrft.plan.demand import demand_of
from vlrft.plan.parts import CUDA_CONTEXT
from vlrft.plan.report import Plan
from vlrft.plan.shadow import Shadows, shadow_model
from vlrft.plan.stage import Device, Planner, StagePlan
from vlrft.renderer import Renderer
from vlrft.setup import check_config
from vlrft.validate.render import load_processor

__all__ = ["Device", "Plan", "StagePlan", "plan"]


def plan(composed: Composed, *, gpus: int, memory: int | None = None, rows: int = 1000) -> Plan:
    """The memory of every stage of a recipe, what binds, and what to change.

    gpus: how many there are, one rank each; 0 = one process on the CPU. memory: bytes of one of them (of the machine);
    None = only say what is needed. rows: so many rows of each split are measured.

    Raises what is wrong with recipe, rows or model, naming it.
    """
    device = Device(gpus=gpus, memory=memory)
    if device.usable is not None and device.usable <= 0:
        raise UserError(
            f"a GPU of {device.memory or 0:,} bytes has none for tensors: CUDA takes about {CUDA_CONTEXT:,} (assumed)"
        )
    config = _runnable_here(composed.config, device)
    stages = [replace(stage, config=_runnable_here(stage.config, device)) for stage in stage_configs(composed.config)]
    check_config(config, stages)
    family = load_processor(four_bit.plain(config.model), config)
    if four_bit.plain(config.model) is not config.model:
        four_bit.stand_in(family.model)
    renderers: dict[str, Renderer] = {}
    demands = []
    for stage in stages:
        key = stage.config.data.model_dump_json(exclude={"train", "eval"})
        renderer = renderers.setdefault(key, Renderer(family, stage.config.data))
        demands.append(demand_of(stage, renderer, ranks=device.ranks, rows=rows))
    shadow_model(family.model, Shadows())
    planned = [Planner(family, stage, demand, device).plan() for stage, demand in zip(stages, demands, strict=True)]
    return Plan(recipe=composed.recipe_name, device=device, stages=tuple(planned))


def _runnable_here(config: Config, device: Device) -> Config:
    """A GPU's attention kernel may be planned for where there is none; `phases` counts it."""
    if device.on_cpu or config.model.attention not in ("flex", "flash_varlen"):
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"attention": "auto"})})
