"""The report as a whole: on a finished, an empty and an interrupted run, with hostile texts, in a browser."""

import html
import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_report_broken_runs import (
    HOSTILE,
    finished_run,
    interrupted_run,
    no_number_that_is_none,
    plain,
    report_of,
    write_lines,
)

from alignkit.errors import UserError
from alignkit.report import command, write_report


def test_finished_run_shows_everything(tmp_path):
    page, _, markdown = report_of(finished_run(tmp_path / "qlora-llama"))
    ids = {attrs.get("id") for attrs in page.all("section")}
    expected = {"figures", "warnings", "scores", "slices", "training", "data", "samples", "load", "reproduce", "recipe"}
    assert ids == expected
    for text in (page.text, plain(markdown)):
        assert "exact_match on held_out went from 0.021 to 0.864: better" in text
        assert "QLoRA, rank 16" in text
        assert "+58.13" in text and "p < 0.001" in text
        assert "[0.845, 0.884]" in text
        assert "41.9M" in text and "of 8.07B (0.52 %)" in text
        assert "18.4k" in text and "1 h 06 min" in text and "22.4 GiB" in text
        assert "empty answer" in text and "98.3 % full" in text and "54.1 %" in text
        assert "level = two digits" in text
        assert "AutoPeftModelForCausalLM.from_pretrained" in text and "apply_chat_template" in text
        assert "'recipes/qlora llama.yaml'" in text and "e20f9130c0ffee0ddba11" in text and "c0dec0de" in text
        assert "load_in_4bit: true" in text
    assert "at step 500" in page.text  # the best held-out loss is not the last
    assert "The first 200 of 240 samples" in page.text
    no_number_that_is_none(page, markdown)


def test_a_loss_that_says_nothing_is_not_judged(tmp_path):
    """GRPO's loss starts at 0 and has no direction; the reward is what is to rise."""
    run = finished_run(tmp_path / "grpo")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "method": "grpo"}))
    lines = [{"step": step, "loss": 0.01 * step, "reward": 0.1 * step} for step in range(5)]
    write_lines(run / "metrics.jsonl", lines)
    _, _, markdown = report_of(run)
    figures = markdown.split("## Key figures")[1].split("## ")[0]
    assert "Mean reward" in figures and "loss" not in figures


def test_page_is_one_file_and_accessible(tmp_path):
    page, source, _ = report_of(finished_run(tmp_path / "run"))
    for tag in ("script", "link", "img", "iframe"):
        assert all((attrs.get("src") or attrs.get("href") or "data:").startswith("data:") for attrs in page.all(tag))
    assert not re.search(r"@import|url\(|https?://", re.sub(r"<pre.*?</pre>", "", source, flags=re.DOTALL))
    assert [attrs["lang"] for attrs in page.all("html")] == ["en"]
    assert len(page.all("h1")) == 1
    assert all(attrs.get("scope") for attrs in page.all("th"))
    anchors = {attrs["href"][1:] for attrs in page.all("a")}
    assert anchors <= {attrs.get("id") for _, attrs in page.tags}
    for attrs in page.all("svg"):
        assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_hostile_texts_stay_texts(tmp_path):
    page, source, markdown = report_of(finished_run(tmp_path / HOSTILE.replace("/", "")[:40]))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert source.count("alert(1)") and "<script>alert" not in source
    assert HOSTILE in page.text
    outside_code = re.sub(r"(`+).*?\1", "", markdown, flags=re.DOTALL)
    assert "<script>" not in outside_code and "<img" not in outside_code
    assert "{{ 7*7 }}" in source


def test_empty_folder(tmp_path):
    page, _, markdown = report_of(tmp_path)
    assert "Nothing says how this run ended." in page.text
    assert {attrs.get("id") for attrs in page.all("section")} == {"figures"}
    no_number_that_is_none(page, markdown)
    with pytest.raises(UserError, match="holds no run"):
        command(_empty(tmp_path / "other"))
    with pytest.raises(UserError, match="no such run folder"):
        command(tmp_path / "absent")


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_interrupted_run(tmp_path, capsys):
    folder = interrupted_run(tmp_path / "run")
    page, _, markdown = report_of(folder)
    for text in (page.text, markdown):
        assert "alignkit sft recipes/qlora_llama.yaml --resume" in text
        assert "interrupted" in text
        assert "1 line could not be read" in text
    assert "1 value not finite, first at step 100" in page.text
    assert "model.generate" not in page.text
    no_number_that_is_none(page, markdown)
    assert command(folder) == folder / "report.html"
    assert capsys.readouterr().out.strip() == str(folder / "report.html")


def test_running_run_is_not_called_died(tmp_path):
    from alignkit.runs import Run

    with Run(tmp_path / "run").hold() as run:
        run.write_state("started")
        assert ">running<" in report_of(run.path)[1]
        run.write_state("failed", error="the loss is nan at step 7")
        assert ">failed<" in report_of(run.path)[1]
    run.write_state("started")
    assert ">died<" in report_of(run.path)[1]


def test_report_imports_nothing_heavy_and_is_quick(tmp_path):
    folder = finished_run(tmp_path / "run")
    code = (
        "import sys, pathlib; from alignkit.report import write_report; write_report(pathlib.Path(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'numpy', 'datasets', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (folder / "report.html").stat().st_size < 1_500_000


def test_a_long_log_stays_small(tmp_path):
    chance = random.Random(0)
    lines = [
        {"step": i, "loss": 1 + chance.random(), "learning_rate": 1e-4, "grad_norm": chance.random()}
        for i in range(100_000)
    ]
    lines[50_000]["loss"] = 77.0
    write_lines(tmp_path / "metrics.jsonl", lines)
    start = time.perf_counter()
    _, source, _ = report_of(tmp_path)
    assert time.perf_counter() - start < 20  # about 1 s; the limit is for busy machines
    assert len(source) < 300_000
    assert "greatest 77" in source


def test_same_input_same_report(tmp_path):
    folder = finished_run(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_other_shapes_of_samples(tmp_path):
    rows = [
        {"name": "held_out", "id": "a", "prompt": [{"role": "user", "content": "p"}], "reference": "r"}
        | {"tuned": {"output": "y", "correct": True}, "baseline": {"output": "x", "correct": False}},
        {"task": "spam", "id": 7, "text": "WIN", "label": "spam", "tuned": "spam"},
        {"task": "spam", "id": 7, "text": "WIN", "sample": 1, "model": "tuned", "prediction": "ham"},
    ]
    write_lines(tmp_path / "evaluation" / "samples.jsonl", rows)
    page, _, _ = report_of(tmp_path)
    body = [attrs for attrs in page.all("tr") if "data-number" in attrs]
    assert [attrs["data-tags"] for attrs in body] == ["right changed fixed", "", ""]
    assert "WIN" in page.text and "user: p" in page.text


PROBE = """
<iframe width=360 height=800 srcdoc="{source}"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, found = {{}};
  const texts = (selector) => [...page.querySelectorAll(selector)].map((element) => element.textContent);
  found.width = page.documentElement.scrollWidth;
  const form = page.querySelector(".samples form"), count = () => texts("output")[0];
  found.all = count();
  form.elements.tag.value = "wrong";
  form.dispatchEvent(new Event("input"));
  found.wrong = count();
  form.elements.tag.value = "";
  form.querySelector("input").value = "word cut";
  form.dispatchEvent(new Event("input"));
  found.search = count();
  form.elements.order.value = "-4";
  form.elements.order.dispatchEvent(new Event("change"));
  found.longest = texts("tr[data-number] th")[0];
  const plot = page.querySelector(".plot[data-lines]"), box = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", {{clientX: box.left + box.width / 2}}));
  found.tip = plot.querySelector(".tip").textContent;
  page.getElementById("theme").click();
  found.theme = page.documentElement.dataset.theme;
  document.title = JSON.stringify(found);
}};
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_works_in_a_browser(tmp_path):
    """No script error, no policy violation, nothing wider than a phone of 360 px, and everything that moves moves."""
    path = write_report(finished_run(tmp_path / "run"))
    probe = path.with_name("probe.html")
    probe.write_text(PROBE.format(source=html.escape(path.read_text(encoding="utf-8"))), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    flags += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(["chromium", *flags, probe.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))
    assert found.pop("width") <= 360
    assert re.fullmatch(r"step 300\nloss  0\.\d+\neval_loss  0\.\d+", found.pop("tip"))
    assert found.pop("wrong") in {f"{n} of 200" for n in range(15, 45)}
    assert found == {"all": "200 of 200", "search": "1 of 200", "longest": "2", "theme": "dark"}
