"""``diffodesic explore``: join two pictures on a page in the browser, served by this machine."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, chosen, command
from diffodesic.cli.pictures import DIGITS, read_pictures
from diffodesic.cli.progress import Progress
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.result import Interpolation
from diffodesic.images.spaces import SPACES, choose_space
from diffodesic.models.model import Model
from diffodesic.numerics.cost import counting
from diffodesic.output.figures import canvas
from diffodesic.output.manifest import hashed
from diffodesic.output.options import Options, option
from diffodesic.output.stages import NOTE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Explorer", "add", "page"]

EXAMPLES = """\
  diffodesic explore                                      photographs of fruit
  diffodesic explore --model mnist                        digits
  diffodesic explore --model my-model --port 8000
"""


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(Options):
    """Where the page is.

    Args:
        host: address that is listened at; the default is this machine alone, 0.0.0.0 is everyone
            who can reach it.
        port: of the address.
        open: show the page in the browser of this machine.
    """

    host: str = "127.0.0.1"
    port: int = option(7860, least=1, most=65535)
    open: bool = False


def add(commands: Any) -> None:
    """Add the command."""
    text = "a page in the browser: choose two pictures, a metric and a level, look, download"
    parser = command(commands, "explore", run, text, EXAMPLES)
    add_flags(parser, ExploreOptions, ModelOptions)


def run(given: argparse.Namespace) -> None:
    """Serve the page until the command is stopped."""
    options = chosen(ExploreOptions, given)
    model = open_model(chosen(ModelOptions, given))
    with tempfile.TemporaryDirectory(prefix="diffodesic-") as folder:
        blocks = page(Explorer(model, Path(folder)))
        blocks.queue(default_concurrency_limit=None).launch(
            server_name=options.host,
            server_port=options.port,
            inbrowser=options.open,
            share=False,
            allowed_paths=[folder],
        )


class StoppedError(Exception):
    """The reader pressed Stop."""


class Explorer:
    """One model, one run at a time, and the result of the last.

    Args:
        model: the model.
        folder: where results are written, each in a folder of its own.
    """

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.stop, self.runs = threading.Event(), 0
        self.result: Interpolation | None = None

    def examples(self) -> tuple[str, str] | tuple[None, None]:
        """Files of two shipped pictures of the model's kind, or none."""
        from diffodesic.output.images import to_pil

        try:
            images = read_pictures(self.model, [], default=DIGITS)
        except ValueError:  # none ships for this kind of model
            return None, None
        files = [self.folder / f"example-{i}.png" for i in range(2)]
        for image, file in zip(to_pil(torch.stack(images)), files, strict=True):
            image.save(file)
        return str(files[0]), str(files[1])

    def picture(self, file: str) -> Image:
        """A picture in the size and the colours that the model gets."""
        from diffodesic.output.images import to_pil

        return to_pil(torch.stack(read_pictures(self.model, [file])))[0]

    def join(
        self, files: tuple[str, str], metric: str, log_snr: float | None, frames: int, bar: Any
    ) -> Interpolation:
        """Join two pictures; what was finished of a run that was stopped is not made again.

        Args:
            files: the two pictures.
            metric: name of a space.
            log_snr: level of the ends, or of the metric; None chooses it.
            frames: number of images.
            bar: called with a share and a line.

        Returns:
            the result, which is kept, too.

        Raises:
            StoppedError: where the reader asked for it.
        """
        self.stop.clear()
        kind = type(choose_space(metric, None))
        space = kind() if log_snr is None else kind(log_snr=log_snr)
        images = read_pictures(self.model, files)
        with counting() as cost:
            shown = Progress(cost, None, lambda line: bar(cost.share or 0.0, line))

            def say(text: str) -> None:
                if self.stop.is_set():
                    raise StoppedError
                if text.startswith(NOTE):
                    bar(0.0, text)
                else:
                    shown(text)

            self.result = interpolate(
                self.model,
                images[0],
                images[1],
                options=InterpolateOptions(space=space, frames=frames),
                checkpoint=self.folder / "stages" / f"{metric}-{log_snr}-{frames}",
                progress=say,
            )
        return self.result

    def download(self, files: tuple[str, str]) -> str:
        """The folder of the last result as a zip file."""
        assert self.result is not None
        self.runs += 1
        folder = self.folder / f"result-{self.runs}"
        self.result.save(folder, inputs=hashed(files))
        return shutil.make_archive(str(folder), "zip", folder)


def page(explorer: Explorer) -> Any:
    """The page, not served yet.

    Args:
        explorer: what it works with.

    Returns:
        ``gradio.Blocks``; nothing in it is fetched from another machine.

    Raises:
        ImportError: without gradio.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs gradio: pip install 'diffodesic[app,explore]'") from error

    def said(action: Callable[[], Any]) -> Any:
        """What an action gives; its errors are sentences on the page."""
        try:
            return action()
        except StoppedError:
            raise gr.Error("Stopped. The same choice goes on from what is finished.") from None
        except (ValueError, OSError, RuntimeError) as error:
            raise gr.Error(str(error)) from error

    def start(
        first: str | None,
        second: str | None,
        metric: str,
        level: str,
        frames: float,
        bar: Any = gr.Progress(),  # noqa: B008  (gradio finds it by its default)
    ) -> tuple[Any, ...]:
        if not first or not second:
            raise gr.Error("Choose two pictures.")

        def show_progress(done: float, line: str) -> None:
            if line.startswith(NOTE):
                gr.Info(line.removeprefix(NOTE))
            else:
                bar(done, line)

        def join() -> tuple[Interpolation, str]:
            log_snr = float(level) if level.strip() else None
            result = explorer.join((first, second), metric, log_snr, int(frames), show_progress)
            return result, explorer.download((first, second))

        result, saved = said(join)
        rows = list(result.paths)
        return (
            result._repr_html_(),
            gr.Radio(rows, value=rows[0], visible=len(rows) > 1),
            gr.Slider(maximum=len(result.frames) - 1, value=0, interactive=True),
            enlarged(result.pictures(rows[0])[0]),
            profile(result, Path(saved).with_suffix(".png")),
            saved,
        )

    def look(row: str | None, place: float) -> Any:
        result = explorer.result
        return None if result is None else enlarged(result.pictures(row)[int(place)])

    def show(file: str | None) -> Any:
        return said(lambda: enlarged(explorer.picture(file))) if file else None

    low, high = explorer.model.denoiser.log_snr_range
    with gr.Blocks(title="diffodesic", analytics_enabled=False) as blocks:
        gr.Markdown(
            f"# diffodesic\nTwo pictures, joined as the model `{explorer.model.name}` sees them."
        )
        files = []
        with gr.Row():
            for label, value in zip(("First", "Second"), explorer.examples(), strict=True):
                with gr.Column():
                    chosen_file = gr.File(
                        value, label=label, height=110, file_types=["image"], elem_id=label.lower()
                    )
                    seen = gr.Image(
                        value and enlarged(explorer.picture(value)),
                        label="as the model gets it",
                        height=240,
                        interactive=False,
                        elem_id=f"{label.lower()}-seen",
                    )
                chosen_file.change(show, chosen_file, seen)
                files.append(chosen_file)
            with gr.Column():
                metric = gr.Dropdown(list(SPACES), value="spacetime", label="Metric")
                level = gr.Textbox(
                    label=f"Log SNR, {low:.3g} to {high:.3g}", placeholder="chosen by the metric"
                )
                frames = gr.Slider(3, 32, value=8, step=1, label="Frames")
                go = gr.Button("Join", variant="primary", elem_id="join")
                stop = gr.Button("Stop", elem_id="stop")
        told = gr.HTML(elem_id="told")
        with gr.Row():
            with gr.Column():
                row = gr.Radio([], label="Path", visible=False)
                place = gr.Slider(0, 1, value=0, step=1, label="Number", elem_id="place")
                frame = gr.Image(label="Frame", height=320, elem_id="frame", interactive=False)
            noise = gr.Image(label="Noise along the path", type="filepath", interactive=False)
        saved = gr.File(label="Frames, page and numbers")
        outputs = [told, row, place, frame, noise, saved]
        go.click(start, [*files, metric, level, frames], outputs, concurrency_limit=1)
        stop.click(explorer.stop.set, queue=False)
        for change in (row.change, place.change):
            change(look, [row, place], frame, show_progress="hidden")
    return blocks


def enlarged(picture: Image, side: int = 256) -> Image:
    """A small picture in whole multiples of its pixels, so that the browser does not blur it."""
    times = max(1, side // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), resample=0)


def profile(result: Interpolation, file: Path) -> str | None:
    """A figure of the log SNR along the geodesic, where it changes."""
    path = result.geodesic
    if result.settings["metric"] != "spacetime":
        return None
    with canvas(file) as (axes,):
        axes.plot(path.knots.tolist(), path.nodes[:, -1].tolist())
        axes.set(xlabel="along the path", ylabel="log SNR (noise grows downwards)")
    return str(file)
