"""The report's small parts: how numbers are written, which ticks an axis gets, what a curve and a comparison say."""

import math
import random

import pytest

from alignkit.report import numbers
from alignkit.report.charts import downsample, line_chart, running_mean
from alignkit.report.curves import Panel, Series, main_panels, other_panels, series_of
from alignkit.report.data import Score
from alignkit.report.markdown import fence, span, sparkline, text
from alignkit.report.scales import Scale, fit, tick_labels, wants_log
from alignkit.report.sections.scores import comparisons


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.69314, "0.6931"), (2e-5, "2e−5"), (0, "0"), (-0.0, "0"), (1234.5, "1,234"), (12345678, "12,345,678"),
        (3, "3"), (10, "10"), (-1.5, "−1.500"), (4.2e12, "4.2e12"), (math.nan, "—"), (-math.inf, "—"), (None, "—"),
        ("nan", "—"), (True, "—"), (10**400, "—"), (9999.96, "10,000"),
    ],
)  # fmt: skip
def test_general(value, written):
    assert numbers.general(value) == written


def test_units_of_measure():
    assert [numbers.duration(s) for s in (0.84, 42, 185, 59.7, 7800, 273_600, -1, math.nan)] == [
        "0.8 s", "42 s", "3 min 05 s", "1 min 00 s", "2 h 10 min", "3 d 4 h", "—", "—",
    ]  # fmt: skip
    assert [numbers.size(b) for b in (100, 851_443_712, 24_010_000_000, 150 * 2**30)] == [
        "100 B", "812 MiB", "22.4 GiB", "150 GiB",
    ]  # fmt: skip
    assert [numbers.compact(n) for n in (512, 18412.7, 999_999, 41_943_040, 8_030_261_248)] == [
        "512", "18.4k", "1.00M", "41.9M", "8.03B",
    ]  # fmt: skip
    assert [numbers.share(*pair) for pair in ((1, 4), (1, 1), (1, 1e6), (0, 5), (999, 1000), (1, 0))] == [
        "25 %", "100 %", "< 0.01 %", "0 %", "99.90 %", "—",
    ]  # fmt: skip


def test_scores_are_written_as_their_field_prints_them():
    assert numbers.score(0.8641, "exact_match") == "0.864"
    assert numbers.score(61.268, "bleu") == "61.27"
    assert numbers.score(12.3456, "perplexity") == "12.35"
    assert numbers.score(-0.25, "accuracy", signed=True) == "−0.250"
    assert numbers.score(0.25, "accuracy", signed=True) == "+0.250"
    assert [numbers.p_value(p) for p in (0.0004, 0.0128, None)] == ["p < 0.001", "p = 0.013", "—"]


def test_the_report_knows_every_metric():
    """Which way is better, and on which scale: as the metrics themselves say."""
    registry = pytest.importorskip("alignkit.metrics.registry").REGISTRY
    for name, metric in registry.items():
        assert numbers.lower_is_better(name) != metric.higher_is_better, name
        assert (numbers.unit(name, [0.5]) == "hundred") == (metric.scale == "percent"), name
        assert (numbers.unit(name, [0.5]) == name) <= (metric.scale == "number"), name


def test_ticks_are_round_and_told_apart():
    assert [tick.label for tick in fit([0.03, 0.97], zero=True).ticks(4)] == ["0", "0.25", "0.50", "0.75", "1.00"]
    assert [tick.label for tick in fit([0, 2e-4]).ticks(4)] == ["0", "0.5e−4", "1.0e−4", "1.5e−4", "2.0e−4"]
    assert [tick.label for tick in Scale(0, 100_000).ticks(5)] == ["0", "20k", "40k", "60k", "80k", "100k"]
    assert [tick.label for tick in fit([0.4, 310], log=True).ticks(4)] == ["1", "3", "10", "30", "100", "300"]


def test_any_range_has_an_axis():
    chance = random.Random(3)
    for _ in range(3000):
        low, high = sorted(chance.choice((-1, 1)) * 10 ** chance.uniform(-300, 300) for _ in range(2))
        values = chance.choice(([low, high], [low], [low, low * (1 + 1e-12)], [0.0], [low, 0.0]))
        scale = fit(values)
        ticks = scale.ticks(4)
        assert 1 <= len(ticks) <= 12, values
        assert all(-1e-6 <= tick.at <= 100 + 1e-6 for tick in ticks), values
        assert all(-1e-3 <= scale.at(value) <= 100.001 for value in values), values
        assert all("nan" not in tick.label and "inf" not in tick.label for tick in ticks)


def test_log_scale_only_where_it_is_needed():
    assert wants_log([1, 1.2, 0.9, 240])
    assert not wants_log([3.4, 1.2, 0.5, 0.4])
    assert not wants_log([0, 1, 2, 1000])


def test_labels_of_one_axis_differ():
    for values in ([0.0001, 0.00015, 0.0002], [1e-7, 2e-7], [99_500, 99_750, 100_000], [1.2e14, 1.25e14]):
        assert len(set(tick_labels(values))) == len(values)


def test_series_of_a_resumed_run_hold_each_step_once():
    steps = [*range(0, 50, 10), *range(30, 70, 10)]
    series = series_of([{"step": step, "loss": index} for index, step in enumerate(steps)])["loss"]
    assert series.steps == [0, 10, 20, 30, 40, 50, 60]
    assert series.values == [0, 1, 2, 5, 6, 7, 8]


def test_quantities_find_their_charts():
    line = {
        "step": 1,
        "epoch": 0.1,
        "loss": 1,
        "kl": 2,
        "rewards/a": 1,
        "rewards/b": 2,
        "train_runtime": 9,
        "note": "x",
    }
    series = series_of([line, {"step": 2, "eval_loss": 1, "eval_kl": 2, "eval_other": 1, "eval_runtime": 3}])
    assert [[one.name for one in panel.series] for panel in main_panels(series)] == [["loss", "eval_loss"]]
    groups = {group: [panel.name for panel in panels] for group, panels in other_panels(series).items()}
    assert groups == {"": ["kl"], "eval": ["eval_other"], "rewards": ["rewards/a", "rewards/b"]}


def chart_of(values, name="loss"):
    return line_chart(Panel(name, (Series(name, [float(i) for i in range(len(values))], values),)))


def test_a_gap_lifts_the_pen():
    chart = chart_of([1.0, 2.0, None, 4.0, None, 5.0, 6.0])
    assert chart.lines[0].path.count("M") == 3
    assert chart.lines[0].path.count("h0") == 1  # the lone point is a dot
    assert len(chart.lost) == 2 and "2 values not finite, first at step 2" in chart.note


def test_one_point_and_none():
    chart = chart_of([2.5])
    assert chart.lines[0].path == "M50.00 50.00h0"
    assert [tick.label for tick in chart.x_ticks] == ["0"]
    assert chart_of([None, None]) is None


def test_downsampling_keeps_every_spike():
    values = [random.Random(0).random() for _ in range(100_000)]
    values[31_337], values[70_000] = 99.0, -99.0
    points = downsample(list(range(100_000)), values, 300)
    assert len(points) <= 600
    assert (31_337, 99.0) in points and (70_000, -99.0) in points
    assert [step for step, _ in points] == sorted(step for step, _ in points)


def test_running_mean_starts_and_ends_where_the_data_do():
    assert running_mean([1.0, 2.0, 3.0, 4.0, 5.0], 3) == [1, 2, 3, 4, 5]
    assert running_mean([1.0, None, 3.0, 5.0], 3)[1:3] == [None, 4.0]


def scored(model, value, low=None, high=None, metric="accuracy", **more):
    return Score("t", "generation", "eval", model, metric, value, low, high, 100, **more)


@pytest.mark.parametrize(
    ("before", "after", "tone"),
    [
        (scored("baseline", 0.5, 0.4, 0.6), scored("tuned", 0.8, 0.7, 0.9), "good"),
        (scored("baseline", 0.5, 0.4, 0.6), scored("tuned", 0.2, 0.1, 0.3), "bad"),
        (scored("baseline", 0.5, 0.4, 0.6), scored("tuned", 0.55, 0.45, 0.65), "quiet"),
        (scored("baseline", 0.5, 0.4, 0.6), scored("tuned", 0.55, 0.45, 0.65, p_value=0.01), "good"),
        (scored("baseline", 0.5, 0.4, 0.6), scored("tuned", 0.8, 0.7, 0.9, p_value=0.2), "quiet"),
        (scored("baseline", 0.5), scored("tuned", 0.8), "quiet"),
        (scored("baseline", 0.5), scored("tuned", 0.8, difference=(0.3, 0.1, 0.5)), "good"),
        (scored("baseline", 9, 8, 10, "perplexity"), scored("tuned", 5, 4, 6, "perplexity"), "good"),
    ],
)
def test_a_difference_is_called_one_only_when_it_is(before, after, tone):
    (row,) = comparisons([before, after])
    assert row.verdict.tone == tone


def test_markdown_escapes():
    assert text("a|b\nc *d* <e>") == "a\\|b c \\*d\\* &lt;e&gt;"
    assert span("a`b") == "`` a`b ``"
    assert fence("x\n```\ny").startswith("````\n")
    assert sparkline(Series("x", [0, 1, 2], [0.0, None, 1.0])) == "▁ █"
