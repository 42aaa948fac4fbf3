"""For the tests of passes: proofs and promises on graphs as text, and fixtures of such graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .components.building.assemble import assemble
from .errors import ArchsmithError
from .ir.model import Model
from .ir.parse import parse_model
from .ir.text import print_block, print_model
from .machine.target import Target
from .plugins import Registry
from .rewrite.passes import METRICS, AnyPass, Lossy
from .rewrite.pipeline import Outcome, PassFailed, Runner
from .spec.load import load, loads
from .spec.schema import Spec


@dataclass(frozen=True)
class Case:
    """A graph, what a pass makes of it, and words of the reasons for what it leaves alone."""

    file: Path
    title: str
    before: str
    after: str
    refuses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file.stem}: {self.title}"

    @property
    def name(self) -> str:
        """The pass that the file is called after."""
        return self.file.stem.replace("_", "-")

    def check(
        self,
        pass_: AnyPass,
        *,
        lossy: bool = False,
        target: Target | None = None,
        registry: Registry | None = None,
    ) -> Outcome:
        """As `check_pass`, with what the case expects."""
        return check_pass(
            pass_,
            self.before,
            after=self.after,
            refuses=self.refuses,
            lossy=lossy,
            target=target,
            registry=registry,
        )


def cases(file: str | Path) -> list[Case]:
    """The cases of a `.ir` file; raises `ArchsmithError` where it is not made of such.

    A case is a line `# title: ...`, a block or model as text, a line `->`, and what is made of it.
    One that is left alone has a title "Leaves ... alone" and neither arrow nor second text. Lines
    `# because: ...` hold words of the reasons.
    """
    path, found = Path(file), []
    for text in path.read_text(encoding="utf-8").split("# title: ")[1:]:
        title, _, rest = text.partition("\n")
        lines = rest.splitlines()
        because = tuple(line.removeprefix("# because: ") for line in lines if "# because:" in line)
        rest = "\n".join(line for line in lines if "# because:" not in line)
        before, arrow, after = rest.partition("\n->\n")
        leaves = title.startswith("Leaves ") and title.endswith(" alone")
        if bool(arrow) == leaves:
            raise ArchsmithError(
                f"{path.name}: {title!r} has {'an' if arrow else 'no'} arrow\n"
                "  = help: what is left alone has none, and a title `Leaves ... alone`"
            )
        after = (after if arrow else before).strip()
        found.append(Case(path, title, before.strip(), after, because))
    if not found:
        raise ArchsmithError(f"{path.name} has no case; one begins with `# title: `")
    return found


def check_pass(
    pass_: AnyPass,
    graph: str | Path,
    *,
    after: str | None = None,
    refuses: str | Iterable[str] = (),
    lossy: bool = False,
    target: Target | None = None,
    registry: Registry | None = None,
) -> Outcome:
    """Run a pass as a pipeline does, and hold it to what every pass promises.

    `graph` is the text of a model or block, or a spec; or a path to either. Every application is
    proved by numbers, in every phase. It must leave the model that it is given alone, do the same
    again, and on a graph that is read from text; change nothing when it runs on what it made; and
    give a reason for what it refuses. `after` is the text that must come out, `refuses` words that
    the reasons must have. Of a pass that is `lossy` all but the numbers is checked: what it loses
    is measured where there are weights. Raises `AssertionError`.
    """
    if isinstance(pass_.effect, Lossy) and not lossy:
        raise AssertionError(f"pass {pass_.name} is lossy, and needs weights to be judged by")
    registry = registry or Registry.installed()
    runner = Runner(registry.ops, target, judge=_unjudged if lossy else None)
    model, whole = _model(graph, registry)
    before = print_model(model)
    made, outcome = _apply(runner, model, pass_)
    text = print_model(made)

    _expect(print_model(model) == before, pass_, "changed the model that it was given")
    if after is not None:
        shown = text if whole else "\n".join(map(print_block, made.blocks.values()))
        if shown.strip() != after.strip():
            raise AssertionError(f"pass {pass_.name} made\n{shown.strip()}\n\nand not\n{after}")
    changed = "nothing" if text == before else "something"
    honest = (outcome.applications > 0) == (text != before)
    _expect(honest, pass_, f"applied {outcome.applications} times, and changed {changed}")
    reasons = [refusal.reason for refusal in outcome.refusals]
    for words in (refuses,) if isinstance(refuses, str) else refuses:
        said = "; ".join(reasons) or "nothing"
        heard = any(words in reason for reason in reasons)
        _expect(heard, pass_, f"does not say {words!r}, but: {said}")

    again, second = _apply(runner, made, pass_)
    more = f"changes what it made when it runs again, {second.applications} times"
    _expect((second.applications, print_model(again)) == (0, text), pass_, more)
    read, third = _apply(runner, parse_model(before, registry.ops), pass_)
    same = (print_model(read), third.refusals) == (text, outcome.refusals)
    _expect(same, pass_, "does something else on the same graph, read from its text")
    return outcome


def _model(graph: str | Path, registry: Registry) -> tuple[Model, bool]:
    """The model that is meant, and whether it is a whole one."""
    if isinstance(graph, str) and "\n" not in graph.strip():
        graph = Path(graph)
    if isinstance(graph, Path) and graph.suffix in (".yaml", ".yml"):
        return _built(load(graph, registry.components, registry.families), registry), True
    text = graph.read_text(encoding="utf-8") if isinstance(graph, Path) else graph
    if "\narchsmith:" in f"\n{text}":
        return _built(loads(text, "spec", registry.components, registry.families), registry), True
    return parse_model(text, registry.ops), text.lstrip().startswith("model")


def _built(spec: Spec, registry: Registry) -> Model:
    """Its tensors are called by their roles, as where no family names them."""
    return assemble(spec, registry.ops)


def _unjudged(before: Model, after: Model) -> Mapping[str, float]:
    return dict.fromkeys(METRICS, 0.0)


def _apply(runner: Runner, model: Model, pass_: AnyPass) -> tuple[Model, Outcome]:
    try:
        return runner.apply(model, pass_)
    except PassFailed as failed:
        raise AssertionError(str(failed)) from failed


def _expect(holds: bool, pass_: AnyPass, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"pass {pass_.name} {otherwise}")
