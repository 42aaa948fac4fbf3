"""The documents say what is so: excerpts are emitted, pages are complete, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from archsmith.compiler.driver import Compiler
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.schema import Spec

ROOT = Path(__file__).parents[1]


def test_the_readme_shows_a_real_spec_and_what_it_becomes(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    page = ROOT / "examples" / "tiny-llama.yaml"
    (spec,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert spec in page.read_text()
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(None)
    compiler.package(compiler.load(page), tmp_path / "package", pipeline, passes, prove=False)
    code = next(c for c in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "self.q" in c)
    assert code in (tmp_path / "package" / "model.py").read_text()


def test_links_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_page_of_specs_names_every_kind_and_field() -> None:
    page = (ROOT / "docs" / "spec.md").read_text()
    components = Registry.installed(("components",)).components
    ours = [c for c in components.values() if c.__module__.startswith("archsmith.compiler")]
    for model in (Spec, *ours):
        for name in model.model_fields:
            assert f"`{name}`" in page, f"{model.__name__}.{name}"
    for component in ours:
        assert f"`{component.kind}`" in page


def test_every_pass_has_a_page() -> None:
    registry = Registry.installed()
    for name, plugin in registry.passes.items():
        if plugin.__module__.startswith("archsmith.passes"):
            assert (ROOT / "docs" / "passes" / f"{name}.md").is_file(), name
