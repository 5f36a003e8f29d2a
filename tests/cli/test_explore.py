"""The explorer: its run without a browser, and the page in one, with nothing fetched elsewhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffodesic.cli.explore import Explorer, StoppedError
from diffodesic.output.images import to_pil
from support.browser import Chromium, find
from support.tiny import pictures, tiny_model


@pytest.fixture
def explorer(tmp_path: Path) -> Explorer:
    (tmp_path / "explored").mkdir()
    return Explorer(tiny_model(), tmp_path / "explored")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, image in zip("ab", to_pil(pictures(2)), strict=True):
        image.save(tmp_path / f"{name}.png")
    return str(tmp_path / "a.png"), str(tmp_path / "b.png")


def test_a_run_is_kept_and_downloaded_whole(explorer: Explorer, files: tuple[str, str]):
    lines: list[str] = []
    result = explorer.join(files, "score", 1.0, 4, lambda share, line: lines.append(line))
    assert len(result.frames) == 4
    assert result.settings["log_snr"] == 1.0
    assert lines
    first, second = explorer.download(files), explorer.download(files)
    assert first != second
    with zipfile.ZipFile(first) as zipped:
        assert {"report.html", "result.json", "filmstrip.png"} <= set(zipped.namelist())


def test_a_stopped_run_goes_on_with_the_same_choice(explorer: Explorer, files: tuple[str, str]):
    def stop_soon(_share: float, _line: str) -> None:
        explorer.stop.set()

    with pytest.raises(StoppedError):
        explorer.join(files, "score", 1.0, 4, stop_soon)
    whole = Explorer(explorer.model, explorer.folder / "other")
    found = explorer.join(files, "score", 1.0, 4, lambda *_: None)
    expected = whole.join(files, "score", 1.0, 4, lambda *_: None)
    assert torch.equal(found.frames, expected.frames)


def test_no_pictures_ship_for_a_model_of_another_kind(explorer: Explorer):
    assert explorer.examples() == (None, None)


def wait(seen: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.2)


TOAST = "[...document.querySelectorAll('.toast-body')].map(t => t.innerText).join()"
# a process of its own: what a server leaves open would be blamed on tests that run later
SERVE = """
import sys
import time
from pathlib import Path
from diffodesic.cli.explore import Explorer, page
from support.tiny import tiny_model

folder = Path(sys.argv[1])


class Slow(Explorer):  # takes a second for every line of progress, while a file asks for it
    def join(self, files, metric, log_snr, frames, bar):
        def slowly(done, line):
            bar(done, line)
            time.sleep((folder / "slow").exists())

        return super().join(files, metric, log_snr, frames, slowly)


blocks = page(Slow(tiny_model(), folder))
_, address, _ = blocks.queue().launch(
    prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", share=False
)
print("at", address, flush=True)
blocks.block_thread()
"""


@pytest.mark.slow
def test_choose_stop_go_on_slide_bad_file_in_a_browser(files: tuple[str, str], tmp_path: Path):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("no gradio here")
    binary = find()
    if binary is None:
        pytest.skip("no Chromium here")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    (tmp_path / "slow").touch()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        address = next(line for line in server.stdout if line.startswith("at ")).split()[1]
        with Chromium(binary, tmp_path / "profile") as chromium:

            def there(script: str) -> bool:
                return bool(chromium.evaluate(script))

            def upload(place: str, file: str | Path) -> None:
                found = chromium.send(
                    "Runtime.evaluate",
                    expression=f"document.querySelector('#{place} input[type=file]')",
                )
                chromium.send(
                    "DOM.setFileInputFiles",
                    files=[str(file)],
                    objectId=found["result"]["objectId"],
                )

            chromium.send("Page.navigate", url=address)
            wait(lambda: there("document.querySelector('#second input[type=file]') !== null"))
            upload("first", files[0])
            upload("second", files[1])
            wait(lambda: there("document.querySelector('#first-seen img') !== null"))
            wait(lambda: there("document.querySelector('#second-seen img') !== null"))
            chromium.evaluate("document.querySelector('#join').click()")
            wait(lambda: list(tmp_path.glob("stages/*/ends.safetensors")))
            (ends,) = tmp_path.glob("stages/*/ends.safetensors")
            made = ends.stat().st_mtime_ns
            chromium.evaluate("document.querySelector('#stop').click()")
            wait(lambda: there(f"/Stopped/.test({TOAST})"))
            assert not there("document.querySelector('#told').innerText.includes('length')")
            (tmp_path / "slow").unlink()
            chromium.evaluate("document.querySelector('#join').click()")
            wait(lambda: there(f"/goes on from an earlier run/.test({TOAST})"))
            wait(lambda: there("document.querySelector('#told').innerText.includes('length')"))
            assert ends.stat().st_mtime_ns == made
            wait(lambda: there("document.querySelector('#frame img') !== null"))
            chromium.screenshot(tmp_path / "explorer.png")
            before = chromium.evaluate("document.querySelector('#frame img').src")
            chromium.evaluate(
                "(() => { const s = document.querySelector('#place input[type=range]');"
                "s.value = s.max; s.dispatchEvent(new Event('input', {bubbles: true}));"
                "s.dispatchEvent(new Event('pointerup', {bubbles: true})); })()"
            )
            wait(lambda: chromium.evaluate("document.querySelector('#frame img').src") != before)
            chromium.evaluate("document.querySelector('#first [aria-label^=Remove]')?.click()")
            chromium.evaluate("document.querySelector('#first [aria-label=Clear]')?.click()")
            wait(lambda: there("document.querySelector('#first input[type=file]') !== null"))
            upload("first", bad)
            wait(lambda: there(f"/bad.png/.test({TOAST})"))
            elsewhere = [
                r for r in chromium.requests if not r.startswith((address, "data:", "blob:"))
            ]
            assert not [r for r in elsewhere if r.startswith("http")]
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
