"""How the demo looks: three tabs over a Studio. The only file that imports Gradio, inside functions: it is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from fade.api import RETAIN, TEMPLATES
from fade.demo.studio import Cancelled, Progress, Studio, Training, lines
from fade.errors import BadInput

ATTACKS = ("light", "prompts", "sampler", "bypass", "closed", "inversion", "prefix")
CSS = """
.gradio-container {max-width: min(1100px, 100%) !important; margin: auto; overflow-x: clip}
.one-line {color: #b3261e; font-weight: 600; min-height: 1.5em}
@media (prefers-color-scheme: dark) {.one-line {color: #ffb4ab}}
footer {display: none !important}
#before img, #after img, #preview img {width: 100%; height: 100%; object-fit: contain}
"""


@dataclass(frozen=True)
class Filled:
    """What the boxes hold at the start, which depends on the pipeline."""

    prompt: str = "a painting of a cat"
    concept: str = ""
    surrogate: str = ""
    templates: tuple[str, ...] = TEMPLATES
    retain: tuple[str, ...] = RETAIN
    steps: int = 100
    options: dict[str, Any] = field(default_factory=dict)


def gradio() -> Any:
    """Raises BadInput, one line, where the extra is missing."""
    try:
        import gradio
    except ImportError as error:
        raise BadInput(
            "the demo needs Gradio: `make demo` installs it, or pip install 'fade-unlearning[demo]'"
        ) from error
    return gradio


def in_one_line(act: Callable[..., Any], empty: tuple[Any, ...]) -> Callable[..., tuple[Any, ...]]:
    """What `act` returns, and below it an empty line; for bad input `empty`, and the line that says what is wrong."""

    @wraps(act)
    def answered(*given: Any) -> tuple[Any, ...]:
        try:
            made = act(*given)
        except BadInput as error:
            return (*empty, f"{error}")
        return (*(made if isinstance(made, tuple) else (made,)), "")

    return answered


def build(studio: Studio, filled: Filled) -> Any:
    """The page: a gradio.Blocks."""
    gr = gradio()
    with gr.Blocks(title="FADE: make it forget", analytics_enabled=False) as page:
        gr.Markdown("# Make it forget\nThe same noise through the pipeline as it was, and with adapters on.")
        labels = list(studio.handles)
        chosen = gr.CheckboxGroup(labels, value=labels, label="Adapters", elem_id="adapters")
        with gr.Row():
            folder = gr.Textbox(label="Adapter folder, or a finished run's", elem_id="folder", scale=4)
            add = gr.Button("Add", elem_id="add", scale=1)
        problem = gr.Markdown(elem_id="problem", elem_classes="one-line")
        with gr.Row():
            prompt = gr.Textbox(filled.prompt, label="Prompt", elem_id="prompt", scale=4)
            seed = gr.Number(1, label="Seed", precision=0, minimum=0, elem_id="seed", scale=1)
        with gr.Tab("Before and after"):
            _comparing(gr, studio, (prompt, seed, chosen), problem)
        with gr.Tab("Unlearn this"):
            _training(gr, studio, filled, (prompt, seed, chosen), problem)
        with gr.Tab("Attack it"):
            _attacking(gr, studio, chosen, problem)

        def added(path: str, now: list[str]) -> Any:
            label = studio.add(path)
            return gr.CheckboxGroup(list(studio.handles), value=[*now, label])

        add.click(in_one_line(added, (gr.skip(),)), [folder, chosen], [chosen, problem], concurrency_id="pipeline")
    page.queue(default_concurrency_limit=1)
    return page


def _comparing(gr: Any, studio: Studio, asked: tuple[Any, Any, Any], problem: Any) -> None:
    with gr.Row():
        scale = gr.Slider(0, 1, 1, step=0.05, label="Scale", elem_id="scale")
        on = gr.Checkbox(True, label="On", elem_id="on")
        merged = gr.Checkbox(False, label="Merged into the weights", elem_id="merged")
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", elem_id="draw")
        over = gr.Button("Over all scales", elem_id="over")
    with gr.Row():
        before = gr.Image(label="Before", elem_id="before", height=280)
        after = gr.Image(label="After", elem_id="after", height=280)
    strip = gr.Gallery(label="From 0 to 1", columns=5, height=220, elem_id="strip", object_fit="contain")
    drawn = in_one_line(studio.before_after, (None, None))
    prompt, seed, chosen = asked
    for event in (draw.click, scale.release, on.input, merged.input, prompt.submit):
        event(
            drawn,
            [prompt, seed, chosen, scale, on, merged],
            [before, after, problem],
            concurrency_id="pipeline",
            trigger_mode="always_last",
        )
    over.click(in_one_line(studio.strip, (None,)), [*asked], [strip, problem], concurrency_id="pipeline")


def _training(gr: Any, studio: Studio, filled: Filled, asked: tuple[Any, Any, Any], problem: Any) -> None:
    with gr.Row():
        concept = gr.Textbox(filled.concept, label="Forget", elem_id="concept")
        surrogate = gr.Textbox(filled.surrogate, label="Draw in its place", elem_id="surrogate")
        steps = gr.Slider(10, 400, filled.steps, step=10, label="Steps", elem_id="steps")
    with gr.Row():
        templates = gr.Textbox("\n".join(filled.templates), label="Sentences with {}, one a line", lines=3)
        retain = gr.Textbox("\n".join(filled.retain), label="To stay as they are, one a line", lines=3)
    with gr.Row():
        start = gr.Button("Unlearn this", variant="primary", elem_id="unlearn")
        stop = gr.Button("Stop", elem_id="stop")
    progress = gr.Markdown(elem_id="progress")
    with gr.Row():
        loss = gr.LinePlot(_curve(()), x="step", y="loss", label="Loss", height=260, elem_id="loss")
        preview = gr.Image(label="The prompt, now", elem_id="preview", height=280)
    with gr.Row():
        out = gr.Textbox(label="Save the newest adapter in a new folder", elem_id="out", scale=4)
        save = gr.Button("Save", elem_id="save", scale=1)
    prompt, seed, chosen = asked

    def trained(words: str, other: str, n: int, texts: str, kept: str, said: str, number: int) -> Iterator[Any]:
        asks = Training(words.strip(), other.strip(), lines(texts), lines(kept), int(n), filled.options)
        try:
            for at in studio.train(asks, said, number):
                yield (*_shown(at, asks.steps), _offered(gr, studio, at), "")
        except (BadInput, Cancelled) as error:
            yield gr.skip(), gr.skip(), "", gr.skip(), f"{error}"

    def saved(path: str) -> str:
        return studio.save(next(reversed(studio.handles), ""), path)

    start.click(
        trained,
        [concept, surrogate, steps, templates, retain, prompt, seed],
        [loss, preview, progress, chosen, problem],
        concurrency_id="pipeline",
    )
    stop.click(studio.cancelled.set, concurrency_id="stop")
    save.click(in_one_line(saved, ("",)), [out], [progress, problem], concurrency_id="pipeline")


def _offered(gr: Any, studio: Studio, at: Progress) -> Any:
    """The list of adapters, with the new one in it and chosen alone."""
    return gr.CheckboxGroup(list(studio.handles), value=[at.label]) if at.label else gr.skip()


def _shown(at: Progress, steps: int) -> tuple[Any, Any, str]:
    done = f"done: “{at.label}”, chosen above" if at.label else f"step {len(at.losses)} of {steps}"
    first = "making its own images, then locating what the concept rests on"
    return _curve(at.losses), at.preview, done if at.losses else first


def _curve(losses: tuple[float, ...]) -> Any:
    import pandas as pd  # Gradio brings it

    return pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}, dtype=float)


def _attacking(gr: Any, studio: Studio, chosen: Any, problem: Any) -> None:
    gr.Markdown(
        "Tries to bring back what the first chosen adapter forgot. The base is attacked the same way, as a control."
    )
    with gr.Row():
        attacks = gr.Dropdown(
            ATTACKS, value=["prompts", "closed"], multiselect=True, label="Attacks", elem_id="attacks"
        )
        images = gr.Slider(4, 40, 8, step=4, label="Images an attack", elem_id="images")
    go = gr.Button("Attack", variant="primary", elem_id="attack")
    header = ["attack", "came back, %", "base, %", "optimiser off, %"]
    rows = gr.Dataframe(headers=header, interactive=False, elem_id="rows", label="Concept seen by the judge [95 %]")
    drawn = gr.Gallery(label="What was drawn", columns=1, elem_id="drawn", object_fit="contain")

    def attacked(labels: list[str], names: list[str], n: int) -> tuple[Any, Any]:
        return studio.attacks(next(iter(labels), ""), names, int(n))

    go.click(
        in_one_line(attacked, (None, None)),
        [chosen, attacks, images],
        [rows, drawn, problem],
        concurrency_id="pipeline",
    )


def show(studio: Studio, filled: Filled, port: int, browser: bool) -> None:
    """Serve the page on this machine alone until Ctrl-C."""
    page = build(studio, filled)
    page.launch(server_name="127.0.0.1", server_port=port, inbrowser=browser, css=CSS, ssr_mode=False, footer_links=[])
