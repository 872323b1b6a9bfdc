"""How numbers, durations and sizes are written. Whatever is not a finite number becomes a dash, never `nan`."""

from __future__ import annotations

import math
from typing import Any

DASH = "—"
MINUS = "\N{MINUS SIGN}"

# The report knows these by name, so that making it imports no metric (a test holds the names against the metrics).
OPEN_ENDED = ("loss", "perplexity", "bits_per_byte", "mean_absolute_error", "root_mean_squared_error")
LOWER_IS_BETTER = (
    *OPEN_ENDED, "ter", "expected_calibration_error", "repetition",
    "truncated_share", "empty_share", "position_share", "unjudged_share",
)  # fmt: skip
OUT_OF_A_HUNDRED = ("bleu", "chrf", "chrf++", "ter")


def finite(value: Any) -> float | None:
    """`value` as a float if it is a finite number (or text of one, as trackers write them), else None."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    name = metric.lower().removeprefix("eval_")
    return any(name == word or name.endswith("_" + word) for word in LOWER_IS_BETTER)


def unit(metric: str, values: list[float]) -> str:
    """Which axis a metric's values belong on: `share` (0 to 1), `hundred` (0 to 100), else the metric's own name."""
    if metric.lower() in OUT_OF_A_HUNDRED:
        return "hundred"
    open_ended = metric.lower().endswith(OPEN_ENDED)
    return "share" if not open_ended and all(0 <= value <= 1 for value in values) else metric


def general(value: Any, digits: int = 4) -> str:
    """A number with `digits` significant digits: `0.6931`, `1,234`, `2e-5`."""
    number = finite(value)
    if number is None:
        return DASH
    if number == 0:
        return "0"
    size = abs(number)
    if size >= 10**digits:
        return _minus(f"{number:,.0f}") if size < 1e9 else _scientific(number, digits)
    if size < 1e-3:
        return _scientific(number, digits)
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{number:,.{decimals}f}"
    return _minus(text.rstrip("0").rstrip(".") if number.is_integer() and "." in text else text)


def score(value: Any, metric: str, signed: bool = False) -> str:
    """A score as its field prints it: shares with three decimals, BLEU and its kin with two, others four digits."""
    number = finite(value)
    if number is None:
        return DASH
    sign = "+" if signed and number > 0 else ""
    if metric.lower() in OUT_OF_A_HUNDRED:
        return sign + _minus(f"{number:.2f}")
    if abs(number) <= 1 and not (0 < abs(number) < 0.0005):
        return sign + _minus(f"{number:.3f}")
    return sign + general(number)


def p_value(value: Any) -> str:
    """`p = 0.013`, or `p < 0.001`, as statistics are usually printed."""
    number = finite(value)
    if number is None:
        return DASH
    return "p < 0.001" if number < 0.001 else f"p = {number:.3f}"


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    number = finite(value)
    return DASH if number is None else f"{number:,.0f}"


def compact(value: Any) -> str:
    """A large count in three digits: `8.03B`, `1.20M`, `512`."""
    number = finite(value)
    if number is None:
        return DASH
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            scaled = number / limit
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled) * 1.0005)))}f}{suffix}"
    return count(number)


def share(part: Any, whole: Any) -> str:
    """`part` of `whole` in per cent, with as many decimals as it needs to be told from nothing and from all."""
    top, bottom = finite(part), finite(whole)
    if top is None or not bottom:
        return DASH
    percent = 100 * top / bottom
    if percent == 0:
        return "0 %"
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.2f} %" if percent < 1 or 99 < percent < 100 else f"{percent:.1f} %".replace(".0 %", " %")


def duration(seconds: Any) -> str:
    """Seconds as a person says them: `0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    number = finite(seconds)
    if number is None or number < 0:
        return DASH
    if number < 10:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(num_bytes: Any) -> str:
    """Bytes in binary units: `812 MiB`, `22.4 GiB`."""
    number = finite(num_bytes)
    if number is None:
        return DASH
    for limit, suffix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= limit:
            scaled = number / limit
            return f"{scaled:.{1 if scaled < 100 else 0}f} {suffix}"
    return f"{number:.0f} B"


def _scientific(number: float, digits: int) -> str:
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    return _minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
