"""A real step of TRL's GRPOTrainer on a tiny vision-language model, with rewards of ours as they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from vlrft.rewards import as_trl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install 'vlrft[bench]'"
    ),
    pytest.mark.filterwarnings("ignore"),
]

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "vision_hidden_size": 32,
    "vision_layers": 1, "vision_heads": 2, "vision_intermediate_size": 48,
}  # fmt: skip
REWARDS = ("box.iou", "format.think_answer", "language.consistency")


def test_a_grpo_step_of_trl_with_three_rewards(tmp_path: Path) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from vlrft.config import TinyModelConfig
    from vlrft.models.tiny import SPECIAL_TOKENS, save_tiny
    from vlrft.testing import noise_image

    save_tiny(TinyModelConfig(**TINY), tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    rows = [
        {
            "prompt": [{"role": "user", "content": "Where is it?"}],
            "image": noise_image((56, 56), seed=i),
            "target": [5, 5, 30, 30],
            "image_size": [56, 56],
        }
        for i in range(2)
    ]
    functions = [as_trl("box.iou"), as_trl("format.think_answer"), as_trl(REWARDS[2], meta={"language": "en"})]
    trainer = GRPOTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=functions,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=1e-2,
            max_steps=1,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            num_generations=4,
            max_completion_length=8,
            generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for name in REWARDS:
        assert 0.0 <= logged[f"rewards/{name}/mean"] <= 1.0
    assert logged["rewards/box.iou/mean"] == 0.0, "random text is no box"
    assert logged["rewards/language.consistency/std"] > 0.0
    after = list(model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), "the step moved the weights"
