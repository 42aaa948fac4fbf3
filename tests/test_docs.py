"""The documents say what is so: commands run, code works, excerpts and pages are complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import torch
from archsmith.compiler import errors
from archsmith.compiler.components.moe import Router
from archsmith.compiler.components.rope import Linear, Llama3, Longrope, Rope, Yarn
from archsmith.compiler.driver import Compiler
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.schema import Draft, Embed, Head, Layer, Spec, Step
from models.oracle import logits
from models.tiny import Case, save
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PLUGIN = ROOT / "examples" / "custom_pass" / "src" / "archsmith_relu2"
SHOWN = ("op.py", "kernel.py", "relu_squared.py", "component.py")
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The lines of indented blocks: what a reader is told to type."""
    lines = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    typed = [line[4:].partition("  #")[0].strip() for line in lines if line.startswith("    ")]
    return [line for line in typed if line]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which a reader may stand: the examples are there, and nothing is written to."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_of(document: str, clone: Path) -> None:
    ran = 0
    for line in commands((ROOT / document).read_text()):
        program, *arguments = shlex.split(line)
        if program != "archsmith":
            continue
        command = [sys.executable, "-m", "archsmith.compiler", *arguments]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran += 1
    assert ran >= 4


def test_what_else_is_typed_is_there() -> None:
    """Targets of make, and paths given to pytest; what they do, other tests and CI do."""
    makefile = (ROOT / "Makefile").read_text()
    for line in commands(README) + commands(CONTRIBUTING):
        words = shlex.split(line)
        if words[0] == "make":
            assert re.search(rf"^{words[-1]}:", makefile, re.MULTILINE), line
        elif "pytest" in words:
            paths = [word for word in words if word.startswith("tests/")]
            assert paths, line
            assert all((ROOT / path).exists() for path in paths), line
        else:
            assert words[0] in ("archsmith", "git", "pip"), line


def test_the_readme_shows_a_real_spec_and_what_it_becomes(tmp_path: Path) -> None:
    page = ROOT / "examples" / "tiny-llama.yaml"
    (spec,) = blocks(README, "yaml")
    assert spec in page.read_text()
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(None)
    compiler.package(compiler.load(page), tmp_path / "package", pipeline, passes, prove=False)
    code = next(c for c in blocks(README, "python") if "self.q" in c)
    assert code in (tmp_path / "package" / "model.py").read_text()


def test_the_readme_shows_a_real_mistake(tmp_path: Path) -> None:
    (shown,) = (block for block in blocks(README, "text") if block.startswith("error["))
    page = (ROOT / "examples" / "deepseek-v2-lite.yaml").read_text()
    (tmp_path / "deepseek-v2-lite.yaml").write_text(page.replace("top_k: 6,", "top_k: 65,"))
    command = [sys.executable, "-m", "archsmith.compiler", "check", "deepseek-v2-lite.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", shown.strip())


def test_the_readme_has_every_exit_code() -> None:
    kinds = [errors.ArchsmithError, *errors.ArchsmithError.__subclasses__()]
    section = README.partition("## Exit codes")[2].partition("\n## ")[0]
    for code in {0, 2, 70, *(kind.exit_code for kind in kinds)}:
        assert re.search(rf"\b{code} ", section), code


@pytest.mark.parametrize("file", [*SHOWN, "fuse_relu_squared.py"])
def test_contributing_shows_the_files_of_the_example_plugin(file: str) -> None:
    assert (PLUGIN / file).read_text() in blocks(CONTRIBUTING, "python")


def test_contributing_shows_the_template_and_the_test_of_a_kernel() -> None:
    assert (PLUGIN / "relu_squared.py.jinja").read_text() in blocks(CONTRIBUTING, "jinja")
    test = ROOT / "tests" / "plugins" / "test_relu_squared.py"
    assert test.read_text() in blocks(CONTRIBUTING, "python")


def test_contributing_shows_the_test_of_a_pass() -> None:
    test = ROOT / "examples" / "custom_pass" / "tests" / "test_fuse_relu_squared.py"
    assert test.read_text() in blocks(CONTRIBUTING, "python")


@pytest.fixture
def contributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The other code of CONTRIBUTING, as the modules of a package of one's own."""
    folder = tmp_path / "contributed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    shown = {(PLUGIN / file).read_text() for file in SHOWN}
    for i, code in enumerate(blocks(CONTRIBUTING, "python")):
        if code not in shown and "RewritePass" not in code and "pytest" not in code:
            (folder / f"module_{i}.py").write_text(code)
    (target,) = blocks(CONTRIBUTING, "yaml")
    (folder / "accelerator.yaml").write_text(target)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("contributed")
    for name in [name for name in sys.modules if name.split(".")[0] in ("contributed", "emitted")]:
        del sys.modules[name]


def test_the_family_kernel_and_target_of_contributing(
    contributed: ModuleType, tmp_path: Path
) -> None:
    registry = Registry.installed()
    registry.add_package(contributed)
    compiler = Compiler(registry, registry.targets["accelerator"], numeric=False)
    fields = {
        "vocab_size": 151,
        "hidden_size": 60,
        "intermediate_size": 92,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_theta": 500.0,
    }
    oracle = save(Case("arcee", "contributed", fields), tmp_path / "checkpoint")
    text, warnings = compiler.read_configuration(tmp_path / "checkpoint", "model")
    assert warnings == ""
    (tmp_path / "model.yaml").write_text(text)
    name, passes = compiler.passes("O0")
    spec = compiler.load(tmp_path / "model.yaml")
    report = compiler.package(spec, tmp_path / "emitted", name, passes)
    assert report.proof is not None
    code = (tmp_path / "emitted" / "model.py").read_text()
    assert "h = F.rms_norm(x, self.mlp_norm.size(), self.mlp_norm, eps=1e-5)" in code
    tokens = torch.randint(151, (2, 9), generator=torch.Generator().manual_seed(0))
    model = __import__("emitted").load(tmp_path / "checkpoint", dtype=torch.float64)
    torch.testing.assert_close(model(tokens), logits(oracle, tokens), rtol=0, atol=1e-8)
    # The kernel's reason, on a target without the feature.
    plan = Compiler(registry, registry.targets["cpu"]).schedule(compiler.build(spec))
    said = {refusal for choice in plan.choices for refusal in choice.refusals}
    assert ("native.rms_norm", "cpu has no fused norms") in said


def test_contributing_names_every_folder() -> None:
    section = CONTRIBUTING.partition("## Where things are")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(.*?)/` \|", section, re.MULTILINE))
    assert all((ROOT / folder).is_dir() for folder in named)
    there = {
        p.parent for top in ("compiler", "templates", "passes") for p in ROOT.glob(f"{top}/*/*")
    }
    wanted = {
        str(folder.relative_to(ROOT)) for folder in there if (folder / "__init__.py").exists()
    }
    assert wanted <= named


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_names_of_files_in_documents_are_files() -> None:
    """Where a document names a file of ours by its path, it is there, or the text adds it."""
    added = re.compile(r"fuse_relu_squared|relu_squared|relu2_mlp|arcee|accelerator|fuse-relu")
    for document in DOCUMENTS:
        for path in re.findall(
            r"`((?:compiler|passes|templates|tests|docs)/[^` ]+)`", document.read_text()
        ):
            if not added.search(path):
                assert (ROOT / path).exists(), f"{document.name}: {path}"


def components() -> dict[str, type[BaseModel]]:
    """Kind -> the component, of those that come with archsmith."""
    found = Registry.installed(("components",)).components
    return {k: c for k, c in found.items() if c.__module__.startswith("archsmith.compiler")}


SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {
    "## The page": (Spec,),
    "## An entry of `layers`": (Layer,),
    "## A step of a block": (Step,),
    "## `head` and `embed`": (Head, Embed),
    "## `mtp`": (Draft,),
    "## `rope`, within an attention": (Rope,),
    "### `linear`": (Linear,),
    "### `yarn`": (Yarn,),
    "### `llama3`": (Llama3,),
    "### `longrope`": (Longrope,),
    "## `router`, within `moe`": (Router,),
    **{f"### `{kind}`": (component,) for kind, component in components().items()},
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_of_specs_has_every_field(heading: str) -> None:
    page = (ROOT / "docs" / "spec.md").read_text()
    section = re.split(r"\n##", page.partition(f"\n{heading}\n")[2])[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    fields = {n: f for model in SECTIONS[heading] for n, f in model.model_fields.items()}
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        value, _, said = rows[name].partition(" | ")
        assert said.startswith(field.description or ""), name
        left_out = re.search(r"\((optional|`(.*)` if left out)\)$", said)
        assert bool(left_out) == (not field.is_required()), name
        if left_out and left_out[2]:
            default = field.default
            written = str(default).lower() if isinstance(default, bool) else f"{default}"
            assert left_out[2] in (written, written.removesuffix(".0")), name
        for choice in get_args(field.annotation):
            if isinstance(choice, str):
                assert f"`{choice}`" in value, name


def test_every_pass_has_a_page_with_what_one_asks() -> None:
    passes = Registry.installed().passes
    ours = {n for n, p in passes.items() if p.__module__.startswith("archsmith.passes")}
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "passes").glob("*.md")}
    assert pages.keys() == ours
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for name, page in pages.items():
        assert page.startswith(f"# {name}\n")
        for part in (
            "->",
            "**When it refuses.**",
            "**What it costs.**",
            f"`{passes[name].effect}`",
        ):
            assert part in page, f"{name}: {part}"
        assert f"`{name}`" in changelog


def test_decisions_are_numbered_and_short() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04}-"), page.name
        assert page.read_text().startswith(f"# {number}. "), page.name
        assert len(page.read_text().splitlines()) < 60, page.name
