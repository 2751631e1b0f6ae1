"""Low-rank adapters inside a family's model: put in place, merged into plain weights, written in peft's format.

The model keeps its class and its module tree; an adapted linear layer becomes peft's layer around it. What leaves the
process (an engine's weights, the saved model) is a plain model again, or an adapter folder that peft loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlrft.config import AdapterConfig
from vlrft.log import UserError

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
"""peft's name of the only adapter."""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be started for."""
_PEFT_PREFIX = "base_model.model."
_INSIDE = re.compile(rf"\.(base_layer|lora_\w+\.{ADAPTER})(?=\.|$)")


def inject(model: nn.Module, part_of: Callable[[str], str], config: AdapterConfig, *, base_name: str | None) -> None:
    """Adapt every linear layer of `config.parts` but the output head, in place; nothing else learns afterwards.

    part_of: part of a parameter, by name. base_name: where the base model came from, for the adapter's own config.
    The adapters are float32 whatever the model is. Raises UserError where peft or bitsandbytes is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("model.adapter needs peft: pip install 'vlrft[peft]'") from error
    names = linear_names(model, part_of, config.parts)
    model.requires_grad_(False)
    if config.kind == "qlora":
        _quantise(model, names)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        base_model_name_or_path=base_name,
    )
    with torch.random.fork_rng(devices=[]), _known_as_quantised(model, config.kind == "qlora"):
        torch.default_generator.manual_seed(config.init_seed)
        inject_adapter_in_model(lora, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()


def linear_names(model: Any, part_of: Callable[[str], str], parts: list[Any]) -> list[str]:
    """Names of the linear layers of these parts, without the output head."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and part_of(f"{name}.weight") in parts
    ]


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers below a module, by name; none where there are no adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def has_adapters(model: nn.Module) -> bool:
    """Whether the whole model has been through `inject`."""
    return hasattr(model, "peft_config")


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def owner(name: str) -> str:
    """Name that the parameter has, or the weight that an adapter's parameter adapts, in the model without adapters."""
    found = _INSIDE.search(name)
    if found is None:
        return name
    if found[1] == "base_layer":
        return _INSIDE.sub("", name)
    return name[: found.start()] + ".weight"


def merged_weight(layer: Any) -> Tensor:
    """An adapted layer's weight [out, in] with its adapter added, in the base weight's type (before its 4 bits)."""
    base = base_weight(layer)
    with torch.no_grad():
        merged: Tensor = base.float() + layer.get_delta_weight(ADAPTER).float()
        if ADAPTER in layer.lora_magnitude_vector:  # DoRA: the rows' lengths are learned apart
            lengths = layer.lora_magnitude_vector[ADAPTER].weight.float()
            merged *= (lengths / torch.linalg.norm(merged, dim=1)).unsqueeze(1)
    return merged.to(base.dtype)


def base_weight(layer: Any) -> Tensor:
    """An adapted layer's own weight [out, in], out of its 4 bits where it is quantised."""
    from peft.utils.integrations import dequantize_module_weight

    weight: Tensor = dequantize_module_weight(layer.get_base_layer()).detach()
    return weight


def plain_state_dict(model: nn.Module, *, merged: bool = True) -> dict[str, Tensor]:
    """The state of the same model without adapters, by its names: adapters merged into their weights, or left out."""
    layers = adapted_layers(model)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        inside = _INSIDE.search(name)
        if inside is None:
            state[name] = tensor
            continue
        module, plain = name[: inside.start()], owner(name)
        if plain.endswith(".bias"):
            state[plain] = tensor
        elif plain not in state:
            weight = f"{module}.weight"
            state[weight] = merged_weight(layers[module]) if merged else base_weight(layers[module])
    return state


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter under the names of peft's adapter_model.safetensors."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {f"{_PEFT_PREFIX}{name}": tensor.detach().contiguous() for name, tensor in state.items()}


def save_adapter(model: Any, folder: Path) -> None:
    """Write what `PeftModel.from_pretrained(base, folder)` loads: adapter_config.json, adapter_model.safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config: LoraConfig = model.peft_config[ADAPTER]
    config.save_pretrained(str(folder))
    save_file(adapter_tensors(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def is_blank(parameters: Mapping[str, Tensor]) -> bool:
    """Whether adapters with these parameters surely change nothing: every B is zero, as at their start, and no DoRA."""
    if any(".lora_magnitude_vector." in name for name in parameters):
        return False
    return not any(bool(tensor.any()) for name, tensor in parameters.items() if ".lora_B." in name)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes as its base."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer._disable_adapters = True  # peft's own switch also takes the gradients away
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def hot_load_obstacle(config: AdapterConfig | None) -> str | None:
    """Why vLLM cannot load an adapter of this config by itself; None where it can."""
    if config is None:
        return "there is no adapter: model.adapter is not set"
    if others := [part for part in config.parts if part != "language_model"]:
        return (
            f"vLLM loads adapters of the language model only and would leave out those on the {' and '.join(others)} "
            "(model.adapter.parts)"
        )
    if config.use_dora:
        return "vLLM has no DoRA (model.adapter.use_dora)"
    if config.r > VLLM_RANKS[-1]:
        return f"vLLM takes ranks up to {VLLM_RANKS[-1]} (model.adapter.r={config.r})"
    return None


def _quantise(model: nn.Module, names: list[str]) -> None:
    """Put 4-bit layers (NF4, quantised scales) in place of these linear layers; packed when the model gets its device.

    Raises UserError without bitsandbytes.
    """
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise UserError("model.adapter.kind=qlora needs bitsandbytes: pip install bitsandbytes") from error
    for name in names:
        linear: Any = model.get_submodule(name)
        small: Any = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=linear.bias is not None, quant_type="nf4", device="meta"
        )
        small.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=small
        )
        small.bias = linear.bias
        # In eval mode some CPUs would repack weights with rounded scales: another model than the one that trains.
        small.support_avx512bf16_for_cpu = False
        model.set_submodule(name, small.to(linear.weight.device))


def round_to_four_bits(model: nn.Module, names: list[str]) -> None:
    """Give these linear layers the values that they have in 4 bits, as plain layers. Raises UserError without
    bitsandbytes."""
    from peft.utils.integrations import dequantize_module_weight

    layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    _quantise(model, names)
    for name, layer in layers.items():
        weight: Tensor = dequantize_module_weight(model.get_submodule(name))
        layer.weight = nn.Parameter(weight.detach().to(layer.weight.dtype), requires_grad=False)
        model.set_submodule(name, layer)


@contextmanager
def _known_as_quantised(model: Any, quantised: bool) -> Iterator[None]:
    """peft asks the model itself whether it holds 4-bit layers; transformers then refuses to save it, so only here."""
    if quantised:
        model.is_loaded_in_4bit = True
    try:
        yield
    finally:
        if quantised:
            del model.is_loaded_in_4bit
