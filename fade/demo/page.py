"""How the demo looks: three tabs over a Studio. The only file that imports Gradio, inside functions: it is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from fade.data.prompts import words
from fade.demo import gradio
from fade.demo.filled import Filled, Training
from fade.demo.studio import Cancelled, Progress, Studio, lines
from fade.errors import BadInput

ATTACKS = ("light", "prompts", "sampler", "bypass", "closed", "inversion", "prefix")
CSS = """
.gradio-container {max-width: min(1100px, 100%) !important; margin: auto; overflow-x: clip;
  --block-info-text-color: var(--block-title-text-color)}
.one-line {color: #b3261e; font-weight: 600}
@media (prefers-color-scheme: dark) {.one-line {color: #ffb4ab}}
footer {display: none !important}
#before img, #after img, #preview img {width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated}
#strip .grid-wrap, #drawn .grid-wrap {height: auto !important; min-height: 0 !important; max-height: none !important}
#strip .grid-container, #drawn .grid-container {grid-template-rows: none; grid-auto-rows: auto}
#drawn .thumbnail-item {aspect-ratio: auto; height: auto}
#drawn .thumbnail-item img {position: static; height: auto}
"""
INTRO = """# Make it forget
A text-to-image model, and adapters that make it forget one concept. Before and after start from the same noise: what
differs is the adapter alone. Taken off, it leaves the model as it was, bit for bit."""
NONE_YET = "None yet, so before and after are the same: train one under “Unlearn this”, or add a folder."
SEVERAL = "Those that are ticked are on, together."
ATTACKING = """Is it gone, or only hidden? An attack searches for another way to the concept that the first ticked
adapter made the model forget; a judge says in how many pictures it came back. The model without the adapter is attacked
the same way: an attack that fails there too says nothing."""


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
        gr.Markdown(INTRO)
        with gr.Row():
            prompt = gr.Textbox(filled.prompt, label="Prompt", elem_id="prompt", scale=4, min_width=260)
            seed = gr.Number(1, label="Seed of the noise", precision=0, minimum=0, elem_id="seed", scale=1)
        chosen = _adapters(gr, studio, list(studio.handles), label="Adapters", elem_id="adapters")
        with gr.Accordion("Add an adapter from a folder", open=False, elem_id="adding"):
            folder = gr.Textbox(label="An adapter's folder, or a finished run's", elem_id="folder")
            add = gr.Button("Add", elem_id="add")
            refused = _line(gr, "add")
        asked = (prompt, seed, chosen)
        with gr.Tab("Before and after"):
            shown = _comparing(gr, studio, asked)
        with gr.Tab("Unlearn this"):
            _training(gr, studio, filled, asked)
        with gr.Tab("Attack it"):
            _attacking(gr, studio, chosen)

        def added(path: str, now: list[str]) -> Any:
            label = studio.add(path)
            return _adapters(gr, studio, [*now, label])

        add.click(in_one_line(added, (gr.skip(),)), [folder, chosen], [chosen, refused], concurrency_id="pipeline")
        page.load(**shown)
        page.load(lambda: _adapters(gr, studio), outputs=[chosen])  # those trained since it was built
    page.queue(default_concurrency_limit=1)
    return page


def _line(gr: Any, name: str) -> Any:
    """Where a tab says in one line what is wrong."""
    return gr.Markdown(elem_id=f"{name}-problem", elem_classes="one-line")


def _picture(gr: Any, label: str, name: str) -> Any:
    """A box of one picture; nothing is offered that would send it away."""
    return gr.Image(label=label, elem_id=name, height=300, format="png", buttons=["download", "fullscreen"])


def _pictures(gr: Any, label: str, name: str, columns: int) -> Any:
    """A box of several, which is there once they are."""
    how = {"object_fit": "contain", "height": "auto", "format": "png", "visible": False}
    return gr.Gallery(label=label, elem_id=name, columns=columns, buttons=["download", "fullscreen"], **how)


def _comparing(gr: Any, studio: Studio, asked: tuple[Any, Any, Any]) -> dict[str, Any]:
    """The tab; what draws both pictures, for the page to do when it is opened."""
    label = "Scale (0: as it was, 1: as trained)"
    scale = gr.Slider(0, 1, 1, step=0.05, label=label, elem_id="scale")
    with gr.Row():
        on = gr.Checkbox(True, label="On", elem_id="on", min_width=80)
        merged = gr.Checkbox(False, label="Merged into the weights", elem_id="merged", min_width=200)
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", elem_id="draw")
        over = gr.Button("Draw at five scales from 0 to 1", elem_id="over")
    problem = _line(gr, "draw")
    with gr.Row():
        before, after = _picture(gr, "Before", "before"), _picture(gr, "After", "after")
    strip = _pictures(gr, "From 0 to 1", "strip", 5)
    prompt, seed, chosen = asked
    drawn = {
        "fn": in_one_line(studio.before_after, (None, None)),
        "inputs": [prompt, seed, chosen, scale, on, merged],
        "outputs": [before, after, problem],
        "concurrency_id": "pipeline",
        "trigger_mode": "always_last",
    }
    for event in (draw.click, scale.release, on.input, merged.input, chosen.change, prompt.submit):
        event(**drawn)

    def stripped(*given: Any) -> Any:
        return gr.Gallery(studio.strip(*given), visible=True)

    over.click(in_one_line(stripped, (gr.skip(),)), [*asked], [strip, problem], concurrency_id="pipeline")
    return drawn


def _training(gr: Any, studio: Studio, filled: Filled, asked: tuple[Any, Any, Any]) -> None:
    given = filled.training
    with gr.Row():
        concept = _concept(gr, filled)
        surrogate = gr.Textbox(given.surrogate, label="Draw in its place", elem_id="surrogate")
        steps = gr.Slider(10, 400, given.steps, step=10, label="Steps", elem_id="steps")
    with gr.Row():
        templates = gr.Textbox(
            "\n".join(given.templates), label="Sentences, {} for the concept, one a line", lines=4, elem_id="templates"
        )
        retain = gr.Textbox("\n".join(given.retain), label="To stay as they are, one a line", lines=4, elem_id="retain")
    with gr.Row():
        start = gr.Button("Unlearn this", variant="primary", elem_id="unlearn")
        stop = gr.Button("Stop", elem_id="stop")
    problem, progress = _line(gr, "train"), gr.Markdown(elem_id="progress")
    with gr.Row():
        loss = gr.LinePlot(None, x="step", y="loss", label="Loss", height=260, elem_id="loss")
        preview = _picture(gr, "The prompt, as it is drawn now", "preview")
    with gr.Row():
        out = gr.Textbox(label="Save the newest adapter in a new folder", elem_id="out", scale=4)
        save = gr.Button("Save", elem_id="save", scale=1)
    prompt, seed, chosen = asked

    def trained(words: str, other: str, n: int, texts: str, kept: str, said: str, number: int) -> Iterator[Any]:
        asks = Training((words or "").strip(), other.strip(), lines(texts), lines(kept), int(n), given.options)
        try:
            for at in studio.train(asks, said, number):
                yield (_curve(at.losses) if at.losses else None, at.preview, _said(at), _offered(gr, studio, at), "")
        except (BadInput, Cancelled) as error:
            yield gr.skip(), gr.skip(), "", gr.skip(), f"{error}"

    def saved(path: str) -> str:
        return studio.save(next(reversed(studio.handles), ""), path)

    def suggested(name: str) -> tuple[Any, ...]:
        now = filled.asking(name)
        if now is filled:
            return (gr.skip(),) * 4
        return (
            now.prompt,
            now.training.surrogate,
            *("\n".join(x) for x in (now.training.templates, now.training.retain)),
        )

    concept.input(suggested, [concept], [prompt, surrogate, templates, retain])
    start.click(
        trained,
        [concept, surrogate, steps, templates, retain, prompt, seed],
        [loss, preview, progress, chosen, problem],
        concurrency_id="pipeline",
    )
    stop.click(studio.cancelled.set, concurrency_id="stop")
    save.click(in_one_line(saved, ("",)), [out], [progress, problem], concurrency_id="pipeline")


def _concept(gr: Any, filled: Filled) -> Any:
    """A box; of a pipeline whose concepts are known they are offered, and choosing one fills the others."""
    if not filled.concepts:
        return gr.Textbox(filled.training.concept, label="Forget", elem_id="concept")
    offered = [(words(label), label) for label in filled.concepts]
    return gr.Dropdown(
        offered, value=filled.training.concept, allow_custom_value=True, label="Forget", elem_id="concept"
    )


def _adapters(gr: Any, studio: Studio, ticked: list[str] | None = None, **more: Any) -> Any:
    """The list of all adapters; ticked: None leaves those ticked that are."""
    labels, chosen = list(studio.handles), {} if ticked is None else {"value": ticked}
    return gr.CheckboxGroup(labels, info=SEVERAL if labels else NONE_YET, **chosen, **more)


def _offered(gr: Any, studio: Studio, at: Progress) -> Any:
    """The list of adapters, with the new one in it and chosen alone."""
    return _adapters(gr, studio, [at.label]) if at.label else gr.skip()


def _said(at: Progress) -> str:
    return f"Done: “{at.label}” is ticked above; see it under “Before and after”." if at.label else at.says


def _curve(losses: tuple[float, ...]) -> Any:
    import pandas as pd  # Gradio brings it

    return pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}, dtype=float)


def _attacking(gr: Any, studio: Studio, chosen: Any) -> None:
    gr.Markdown(ATTACKING)
    with gr.Row():
        attacks = gr.Dropdown(
            ATTACKS, value=["prompts", "closed"], multiselect=True, label="Attacks", elem_id="attacks"
        )
        images = gr.Slider(4, 40, 8, step=4, label="Images an attack", elem_id="images")
    go = gr.Button("Attack", variant="primary", elem_id="attack")
    problem, progress = _line(gr, "attack"), gr.Markdown(elem_id="attacked")
    header = ["attack", "came back, %", "on the model as it was, %", "without the search, %"]
    rows = gr.Dataframe(headers=header, interactive=False, elem_id="rows", label="Concept seen by the judge [95 %]")
    drawn = _pictures(gr, "What was drawn", "drawn", 1)

    def attacked(labels: list[str], names: list[str], n: int) -> Iterator[Any]:
        try:
            for at in studio.attacks(next(iter(labels), ""), names, int(n)):
                if isinstance(at, str):
                    yield gr.skip(), gr.skip(), at, ""
                else:
                    yield at[0], gr.Gallery(at[1], visible=True), "", ""
        except BadInput as error:
            yield gr.skip(), gr.skip(), "", f"{error}"

    go.click(attacked, [chosen, attacks, images], [rows, drawn, progress, problem], concurrency_id="pipeline")


def show(studio: Studio, filled: Filled, port: int, browser: bool) -> None:
    """Serve the page on this machine alone until Ctrl-C."""
    page = build(studio, filled)
    page.launch(server_name="127.0.0.1", server_port=port, inbrowser=browser, css=CSS, ssr_mode=False, footer_links=[])
