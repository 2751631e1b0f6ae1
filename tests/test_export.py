"""An exported folder is the run's model: for plain transformers, for vLLM, bit by bit; else there is no folder."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call, refusal
from safetensors.torch import load_file, save_file

import vlrft
from vlrft import checkpoint
from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.export import export_run
from vlrft.export.answers import Answer, differences, run_answers
from vlrft.export.questions import find_questions
from vlrft.export.reload import compare_weights, load_plain, plain_answers
from vlrft.export.source import ExportError
from vlrft.models import load_family
from vlrft.models.tiny import build_tiny
from vlrft.testing import tiny_recipe


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    blocks: dict[str, Any] = {"train": {"steps": 3, "save_steps": 1, "keep_checkpoints": 5}, "eval": {"every": 0}}
    data = {"min_pixels": 28 * 28, "max_pixels": 56 * 28}
    return vlrft.train(tiny_recipe(scenes, folder, data=data, **blocks)).path


def test_a_finished_run(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "deep" / "model"
    done = export_run(run, to, with_vllm=False)
    assert done.path == to
    assert "equal bit by bit in the files and as transformers loads them" in done.checks[0]
    assert "greedy answers to 2 held-out rows: the same tokens in 2" in done.checks[1]
    assert done.checks[2] == "vLLM: not compared, as asked"
    names = {path.name for path in to.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {"chat_template.jinja", "generation_config.json"} <= names
    assert [path.name for path in to.parent.iterdir()] == ["model"], "nothing is left beside it"
    written, trained = load_file(to / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], trained[name]) for name in written)
    assert any(name.startswith("visual.") for name in written), "published names"
    size = json.loads((to / "processor_config.json").read_text())["image_processor"]["size"]
    assert (size["shortest_edge"], size["longest_edge"]) == (28 * 28, 56 * 28), "the run's own limits"


def test_an_unfinished_run_gives_its_newest_checkpoint(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = shutil.copytree(run, tmp_path / "run")
    (cut / "summary.json").unlink()
    shutil.rmtree(checkpoint.complete(cut)[-1])
    shutil.rmtree(cut / "model")
    export_run(cut, tmp_path / "newest", with_vllm=False)
    assert "is not finished: this is its newest checkpoint, 00000002-00" in caplog.text
    export_run(run, tmp_path / "named", checkpoint="00000002-00", with_vllm=False)
    export_run(run, tmp_path / "last", checkpoint="00000003-01", with_vllm=False)
    newest, named, last = (load_file(tmp_path / n / "model.safetensors") for n in ("newest", "named", "last"))
    trained = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(newest[name], named[name]) for name in newest)
    assert all(torch.equal(last[name], trained[name]) for name in trained)
    assert not all(torch.equal(newest[name], trained[name]) for name in trained)


def test_bfloat16(run: Path, tmp_path: Path) -> None:
    done = export_run(run, tmp_path / "model", dtype="bfloat16", with_vllm=False)
    assert "in bfloat16" in done.checks[0]
    written, trained = load_file(tmp_path / "model/model.safetensors"), load_file(run / "model/model.safetensors")
    assert all(torch.equal(written[name], trained[name].bfloat16()) for name in trained)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
def test_vllm_answers_like_the_run(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")
    model = {"tiny": {"hidden_size": 128, "num_layers": 2, "number_tokens": 60}}
    trained = vlrft.train(tiny_recipe(scenes, tmp_path / "run", model=model, train={"steps": 2}, eval={})).path
    done = export_run(trained, tmp_path / "model")
    assert done.checks[2].startswith("vLLM: greedy answers to 2 held-out rows: the same tokens in 2, log-probs apart")


@pytest.mark.slow
def test_heads_that_vllm_cannot_run_are_told(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")
    if torch.cuda.is_available():
        pytest.skip("a limit of vLLM's CPU kernels")
    done = export_run(run, tmp_path / "model")
    assert done.checks[2].startswith("vLLM: not compared: on the CPU vLLM runs attention heads of 32, ")
    assert done.checks[2].endswith("this model has 8 (hidden_size / num_heads)")


def test_without_vllm_it_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = export_run(run, tmp_path / "model")
    assert "vLLM: not compared: vLLM is not installed" in done.checks[2]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "internvl"])
@pytest.mark.slow
def test_every_family(name: str, tmp_path: Path) -> None:
    tiny = TinyModelConfig(family=name, num_layers=2, init_seed=3)
    data = DataConfig(max_pixels=3 * 112 * 112, eval=None)
    family = load_family(ModelConfig(tiny=tiny), data)
    family.keep_limits()
    family.model.save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    assert "equal bit by bit" in compare_weights(family, tmp_path)[0]
    config = vlrft.Config(model=ModelConfig(tiny=tiny), data=data)
    questions = find_questions(config, family)
    assert questions[0].origin == "drawn images"
    own = run_answers(family, questions)
    assert differences(own, plain_answers(load_plain(tmp_path), family, questions, own), torch.float32) == []


def tamper(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if "layers.1" in n and tensors[n].dim() == 2)
    if how == "value":
        tensors[name][0, 0] += 1e-6
    elif how == "missing":
        del tensors[name]
    elif how == "unexpected":
        tensors["model.another.weight"] = torch.zeros(2)
    elif how == "type":
        tensors[name] = tensors[name].half()
    elif how == "shape":
        tensors[name] = tensors[name][1:].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


EXPECTED = {
    "value": "values differ",
    "missing": "is missing",
    "unexpected": "model.another.weight is not one of the model's",
    "type": "torch.float32 .* in the run, torch.float16",
    "shape": "in the run, torch.float32 .* there",
}


@pytest.mark.parametrize("how", EXPECTED)
def test_whatever_differs_in_the_weights_fails(
    how: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    original = PreTrainedModel.save_pretrained

    def save(self: Any, folder: Path, **options: Any) -> None:
        original(self, folder, **options)
        tamper(folder, how)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)
    with pytest.raises(ExportError, match=f"so nothing was exported:\n.*{EXPECTED[how]}"):
        export_run(run, tmp_path / "model", with_vllm=False)
    assert not list(tmp_path.iterdir())


def test_a_processor_that_makes_other_prompts_fails(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's pixel limits not kept: right weights, but whoever loads the folder shows larger images."""
    monkeypatch.setattr("vlrft.models.qwen_vl.QwenVL.keep_limits", lambda self: None)
    with pytest.raises(ExportError, match=r"plain transformers does not answer.*\n.*prompt 0: \d+ tokens in the run"):
        export_run(run, tmp_path / "model", with_vllm=False)
    assert not list(tmp_path.iterdir())


def test_differences_are_named() -> None:
    own = Answer(prompt_ids=(1, 2, 3), token_ids=(7, 8), logprobs=(-0.5, -1.0))
    other = Answer(prompt_ids=(1, 2, 3), token_ids=(7, 9), logprobs=(-0.5, -1.0))
    assert differences([own], [own], torch.float32) == []
    assert "unlike from token 1 on: [7, 8] in the run, [7, 9]" in differences([own], [other], torch.float32)[0]
    assert differences([own], [other], torch.bfloat16) == [], "as good as equal: their log-probs agree"
    off = Answer(prompt_ids=(1, 2, 3), token_ids=(7, 8), logprobs=(-0.5, float("nan")))
    for dtype in (torch.float32, torch.bfloat16):
        assert "log-prob of token 1 of the answer is -1.00000 in the run" in differences([own], [off], dtype)[0]
    longer = Answer(prompt_ids=(1, 2, 3, 4), token_ids=(7, 8), logprobs=(-0.5, -1.0))
    assert "3 tokens in the run, 4 there, unlike from token 3 on" in differences([own], [longer], torch.float32)[0]


def test_rows_that_are_gone_are_replaced(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace("format: shapes", "format: voc").replace("options:", "path: x #"))
    config = vlrft.compose.compose(run / "config.yaml").config
    config.data.eval = config.data.eval.model_copy(update={"format": "voc", "options": {}, "path": "gone"})  # type: ignore[union-attr]
    family = load_family(config.model, config.data)
    questions = find_questions(config, family)
    assert questions[0].origin == "drawn images"
    assert "no held-out rows to compare answers on" in caplog.text


def test_refusals(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "no run").mkdir()
    young = shutil.copytree(run, tmp_path / "young")
    (young / "summary.json").unlink()
    shutil.rmtree(young / "checkpoints")
    new = str(tmp_path / "new")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    said = {
        (str(run), "--to", str(tmp_path / "full")): "is there already and not empty; give a new folder",
        (str(run), "--to", str(tmp_path / "full" / "file" / "x")): "is no folder that can be written to",
        (str(tmp_path / "no run"), "--to", new): "config.yaml is missing",
        (str(young), "--to", new): "has no weights yet",
        (str(run), "--to", new, "--checkpoint", "9"): "no checkpoint '9'; there are: 00000001-00, 00000002-00",
        (str(run), "--to", new, "--dtype", "int8"): "choose one of float32, bfloat16, float16",
        (str(run), "--to", new, "--push", "me/it"): "no token of the hub; log in with 'hf auth login'",
    }
    for arguments, message in said.items():
        assert message in refusal(monkeypatch, capsys, "export", *arguments), arguments
    assert not Path(new).exists()


def test_push(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub import HfApi

    asked: list[tuple[str, Any]] = []
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **options: asked.append((self.token, repo)))

    def upload(self: Any, *, folder_path: Path, repo_id: str, **options: Any) -> str:
        asked.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
        return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    to = tmp_path / "model"
    assert call(monkeypatch, "export", str(run), "--to", str(to), "--push", "me/it", "--no-vllm") == 0
    assert asked[0] == ("hf_made_up", "me/it")
    assert asked[1] == ("me/it", sorted(path.name for path in to.iterdir()))
    assert "uploaded: https://hub/me/it/commit/1" in capsys.readouterr().out

    def refuses(self: Any, **options: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(HfApi, "upload_folder", refuses)
    with pytest.raises(ExportError, match=r"--push me/it: not uploaded: no route to host\. The export itself is in"):
        export_run(run, tmp_path / "again", push_to="me/it", with_vllm=False)
    assert (tmp_path / "again" / "config.json").is_file()


def test_a_run_with_adapters(run: Path, tmp_path: Path) -> None:
    """model/ merged and adapter/ in peft's form: the adapter alone, or with --merge the model."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")
    adapted = shutil.copytree(run, tmp_path / "run")
    config = vlrft.compose.compose(adapted / "config.yaml").config
    base, _ = build_tiny(config.model.tiny)  # type: ignore[arg-type]
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model: Any = peft.get_peft_model(base, lora)
    model.save_pretrained(adapted / "adapter")
    model.merge_and_unload().save_pretrained(adapted / "model")
    done = export_run(adapted, tmp_path / "adapter", with_vllm=False)
    names = {path.name for path in done.path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json"} <= names
    assert "model.safetensors" not in names
    assert done.checks[0].startswith(
        "peft over the base model: greedy answers to 2 held-out rows: the same tokens in 2"
    )
    merged = export_run(adapted, tmp_path / "merged", merge=True, with_vllm=False)
    assert (merged.path / "model.safetensors").is_file()
    with pytest.raises(ExportError, match="an adapter keeps its type; add --merge"):
        export_run(adapted, tmp_path / "typed", dtype="bfloat16")
    path = adapted / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="peft over the base model does not answer like the run's own model"):
        export_run(adapted, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    (adapted / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(ExportError, match=r"adapter_config\.json is missing: export the whole model with --merge"):
        export_run(adapted, tmp_path / "wrong")


@pytest.mark.slow
def test_a_run_that_trained_adapters(scenes: Path, tmp_path: Path) -> None:
    """The whole model and the adapter, from the finished run and from a checkpoint, which holds the adapters alone."""
    pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")
    recipe = tiny_recipe(
        scenes, tmp_path / "run", train={"steps": 2, "save_steps": 1}, parallel={"cpu": True, "num_threads": 1}
    )
    recipe["model"]["adapter"] = {"r": 4}
    vlrft.train(recipe)
    last = max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    merged = export_run(tmp_path / "run", tmp_path / "merged", merge=True, with_vllm=False)
    saved = export_run(tmp_path / "run", tmp_path / "saved", merge=True, checkpoint=last, with_vllm=False)
    for done in (merged, saved):
        assert done.checks[1].startswith("plain transformers: greedy answers to 2 held-out rows: the same tokens in 2")
    assert (merged.path / "model.safetensors").read_bytes() == (saved.path / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "summary.json").unlink()
    alone = export_run(tmp_path / "run", tmp_path / "alone", with_vllm=False)
    assert alone.checks[0].startswith("peft over the base model: greedy answers to 2 held-out rows: the same tokens")
    assert not (alone.path / "model.safetensors").exists()
    name = "adapter_model.safetensors"
    assert (alone.path / name).read_bytes() == (tmp_path / "run" / "adapter" / name).read_bytes()


def coarsen(model: Any, names: list[str]) -> None:
    """In the place of bitsandbytes' 4 bits: weights in steps of 1/64, in plain layers of their own."""
    for name in names:
        linear = copy.deepcopy(model.get_submodule(name))
        linear.weight.data = (linear.weight.data * 64).round() / 64
        model.set_submodule(name, linear)


@pytest.mark.slow
def test_an_adapter_on_four_bits_is_compared_over_them(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")
    monkeypatch.setattr("vlrft.adapters._quantise", coarsen)
    monkeypatch.setattr("vlrft.setup.find_spec", lambda name: object())
    made = tiny_recipe(scenes, tmp_path / "run", train={"steps": 1}, parallel={"cpu": True, "num_threads": 1})
    made["model"]["adapter"] = {"r": 4, "kind": "qlora"}
    vlrft.train(made)
    done = export_run(tmp_path / "run", tmp_path / "adapter", with_vllm=False)
    assert done.checks[0].startswith(
        "peft over the base model: greedy answers to 2 held-out rows: the same tokens in 2"
    )
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ExportError, match=r"pip install bitsandbytes, or export the whole model with --merge"):
        export_run(tmp_path / "run", tmp_path / "again", with_vllm=False)
    monkeypatch.setattr("vlrft.export.adapter.round_to_four_bits", lambda model, names: None)
    with pytest.raises(ExportError, match="peft over the base model does not answer like the run's own model"):
        export_run(tmp_path / "run", tmp_path / "unlike", with_vllm=False)
