"""What a package promises its owner, on built tiny packages and at published sizes."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from safetensors.torch import load_file, save_file

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ["tiny-llama", "tiny-mixtral", "tiny-qwen3-moe", "tiny-deepseek-v2", "tiny-deepseek-v3"]
BILLIONS = {
    "deepseek-v2-lite": 15.71,
    "deepseek-v2": 235.74,
    "deepseek-v3": 671.03,
    "mixtral-8x7b": 46.70,
    "qwen3-30b-a3b": 30.53,
    "llama-3-8b": 8.03,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds an example once, and gives its folder and the imported package."""
    root = tmp_path_factory.mktemp("built")
    compiler = Compiler.installed(numeric=False)
    sys.path.insert(0, str(root))
    made: dict[str, Any] = {}

    def build(
        example: str, change: Callable[[str], str] = lambda text: text, name: str = ""
    ) -> Any:
        key = name or example.replace("-", "_")
        if key not in made:
            page = root / f"{key}.yaml"
            page.write_text(change((EXAMPLES / f"{example}.yaml").read_text()))
            pipeline, passes = compiler.passes(None)
            compiler.package(compiler.load(page), root / key, pipeline, passes, prove=False)
            made[key] = importlib.import_module(key)
        return made[key]

    yield build
    sys.path.remove(str(root))


def fresh(package: Any, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    return package.Model(package.Config(dtype=dtype))


def prompt(package: Any, rows: int = 2, length: int = 7) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(package.Config.vocab_size, (rows, length), generator=draw)


def folder_of(package: Any) -> Path:
    return Path(package.__file__).parent


@pytest.mark.parametrize("example", BILLIONS)
def test_published_sizes_on_the_meta_device(built: Any, example: str) -> None:
    package = built(example)
    with torch.device("meta"):
        model = package.Model(package.Config())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e9, 2) == BILLIONS[example]
    plan = json.loads((folder_of(package) / "plan.json").read_text())
    assert plan["parameters"] == count
    cache = model.new_cache(batch=1, length=2)
    assert cache.bytes_per_token == plan["cache_bytes_per_token"]


@pytest.mark.parametrize("example", TINY)
def test_a_package_passes_its_own_tests_without_archsmith(built: Any, example: str) -> None:
    folder = folder_of(built(example))
    code = (
        "import sys, runpy; sys.modules['archsmith'] = None; "
        f"sys.argv = ['test']; runpy.run_module('{folder.name}.tests.test_package', "
        "run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr


def test_a_renamed_package_works(built: Any, tmp_path: Path, monkeypatch: Any) -> None:
    package = built("tiny-deepseek-v2")
    shutil.copytree(folder_of(package), tmp_path / "another_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    other = importlib.import_module("another_name")
    tokens = prompt(package)
    assert torch.equal(fresh(package)(tokens), fresh(other)(tokens))


def test_two_packages_in_one_process_keep_their_constants(built: Any) -> None:
    one = built("tiny-deepseek-v2")
    two = built("tiny-deepseek-v2", lambda t: t.replace("eps: 1.0e-6", "eps: 0.5"), "other_eps")
    tokens = prompt(one)
    alone = fresh(one)(tokens)
    assert not torch.allclose(alone, fresh(two)(tokens))
    assert torch.equal(alone, fresh(one)(tokens))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_floating_dtype_runs_on_a_cpu(built: Any, dtype: torch.dtype) -> None:
    model = fresh(built("tiny-deepseek-v3"), dtype)
    tokens = prompt(built("tiny-deepseek-v3"))
    cache = model.new_cache(2, 8)
    logits = model.prefill(tokens, cache)
    assert logits.dtype == dtype
    assert model.decode(logits.argmax(-1), cache).isfinite().all()


def test_gradients_reach_every_trained_parameter(built: Any) -> None:
    for example in TINY:
        package = built(example)
        model = fresh(package)
        tokens = prompt(package, 4, 24)
        logits = model(tokens)[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
        for name, parameter in model.named_parameters():
            if not name.endswith("router_bias"):  # it steers a choice, which has no gradient
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name


def test_generate(built: Any) -> None:
    package = built("tiny-llama")
    model, tokens = fresh(package), prompt(package)
    whole = package.generate(model, tokens, max_new_tokens=9)
    assert whole.shape == (2, 9)
    ragged = tokens.clone()
    ragged[1, 4:] = -7
    together = package.generate(model, ragged, max_new_tokens=9, lengths=torch.tensor([7, 4]))
    alone = package.generate(model, tokens[1:, :4], max_new_tokens=9)
    assert torch.equal(together, torch.cat((whole[:1], alone)))
    eos = int(whole[0, 2])
    ended = package.generate(model, tokens, max_new_tokens=9, eos=[eos, 5])
    first = whole[0].tolist().index(eos)
    assert ended[0].tolist() == [*whole[0, :first].tolist(), *[eos] * (9 - first)]

    def drawn(seed: int, **options: float) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        return package.generate(model, tokens, max_new_tokens=9, generator=source, **options)

    assert torch.equal(drawn(1, temperature=1.0), drawn(1, temperature=1.0))
    assert not torch.equal(drawn(1, temperature=1.0), drawn(2, temperature=1.0))
    assert torch.equal(drawn(1, temperature=1.0, top_p=1e-9), whole)


def test_speculation_and_a_second_turn(built: Any) -> None:
    package = built("tiny-deepseek-v3")
    model, tokens = fresh(package), prompt(package, 2, 9)
    logits = model(tokens)
    cache = model.new_cache(2, 9)
    model.prefill(tokens[:, :3], cache)
    model.extend(tokens[:, 3:].flip(1), cache)  # a wrong guess
    cache.truncate([3, 3])
    torch.testing.assert_close(model.extend(tokens[:, 3:7], cache), logits[:, 3:7])
    torch.testing.assert_close(model.prefill(tokens[:, 7:], cache), logits[:, -1])
    before = cache.lengths.clone()
    with pytest.raises(ValueError, match="length is 9"):
        model.decode(tokens[:, 0], cache)
    assert torch.equal(cache.lengths, before)


@pytest.fixture
def saved(built: Any, tmp_path: Path) -> tuple[Any, Path]:
    package = built("tiny-deepseek-v2")
    package.save(fresh(package, torch.float32), tmp_path / "checkpoint")
    return package, tmp_path / "checkpoint"


def test_every_wrong_tensor_is_named_at_once(saved: tuple[Any, Path]) -> None:
    package, folder = saved
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.extra.weight"] = torch.zeros(3)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :-1].contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold") as wrong:
        package.load(folder)
    for name in ("model.norm.weight", "model.extra.weight", "lm_head.weight"):
        assert name in str(wrong.value)


def test_another_meaning_of_the_same_shapes_is_an_error(saved: tuple[Any, Path]) -> None:
    package, folder = saved
    package.load(folder)
    config = json.loads((folder / "config.json").read_text())
    for name, value in (("rope_theta", 500.0), ("routed_scaling_factor", 7.0)):
        changed = {**config, name: value}
        if "rope" in name:
            changed["rope_parameters"] = {**config["rope_parameters"], name: value}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=name):
            package.load(folder)


def test_fp8_is_one_clear_error(saved: tuple[Any, Path]) -> None:
    package, folder = saved
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="float8"):
        package.load(folder)


def test_a_tied_head_may_be_there_if_it_is_the_embedding(built: Any, tmp_path: Path) -> None:
    package = built("tiny-llama")
    model = fresh(package, torch.float32)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in dict(model.named_parameters()).values()
    )
    package.save(model, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors
    head = tensors["model.embed_tokens.weight"].clone()
    save_file({**tensors, "lm_head.weight": head}, file)
    package.load(tmp_path / "checkpoint")
    save_file({**tensors, "lm_head.weight": head + 1}, file)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        package.load(tmp_path / "checkpoint")
