"""What the logged quantities say of how training went."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from alignkit.doctor.endings import SPIKE
from alignkit.doctor.findings import FEW, Case, Finding, ends, lowest, noise, steps_of
from alignkit.report.numbers import general

FLAT = 0.01  # of its size: a loss that has moved by less has not moved
RISEN = 1.3  # times its lowest
FAR = 1.0  # nats a token from the reference: hardly the same language any more
FAR_IN_ALL = 50.0  # nats a completion
WAITING = 0.5  # of a step's time
SLOWER = 0.6  # of the speed at first
UNANSWERED = 0.2  # of the samples
OVERFIT = 0.02  # above the best held-out loss, as a share of it


def training(case: Case) -> Iterator[Finding]:
    yield from _lost(case)
    yield from _learning_rate(case)
    yield from _loss(case)
    yield from _gradients(case)
    yield from _held_out(case)
    if case.online:
        yield from _rewards(case)
        yield from _kl(case)
    yield from _speed(case)
    yield from _alarms(case)


# ---------------------------------------------------------------------- loss, gradients, learning rate
def _lost(case: Case) -> Iterator[Finding]:
    for name in ("loss", "eval_loss", "reward", "kl"):
        series = case.data.curves.get(name)
        if series is not None and series.lost:
            pairs = [(step, 0.0) for step in series.lost]
            yield Finding("no_number", "bad", f"{name} was no finite number at {steps_of(pairs)}.", "see those batches")


def _loss(case: Case) -> Iterator[Finding]:
    series = case.curve("loss")
    if series is None or case.online or (found := ends(series)) is None:
        return
    first, last = found
    step, low = lowest(series)
    advice = "lower training.learning_rate, or lengthen warmup_steps"
    if last > RISEN * low and last - low > 4 * noise(series):
        words = "is above where it began" if last > first else "has risen again"
        what = f"The loss {words}: {general(first)} at first, {general(low)} at step {step:.0f}, now {general(last)}."
        yield Finding("diverging", "bad" if last > first else "warn", what, advice)
    elif abs(last - first) < FLAT * abs(first):
        what = f"The loss has hardly moved: {general(first)} at first, {general(last)} at the end."
        advice = "raise training.learning_rate, train more weights (adapter.r, target_modules) or longer"
        yield Finding("flat", "warn", what, f"{advice}; `alignkit inspect` shows what is trained on")


def _gradients(case: Case) -> Iterator[Finding]:
    series = case.curve("grad_norm")
    if series is None:
        return
    values = [value for _, value in series.finite]
    if len(values) >= 3 and not any(values) and not case.online:
        advice = "see what is frozen (adapter.target_modules), and whether any token is trained on: `alignkit inspect`"
        yield Finding("no_gradient", "bad", "The gradient was exactly 0 at every logged step.", advice)
    if len(values) < 2 * FEW:
        return
    usual = median(values)
    spikes = [(step, value) for step, value in series.finite if usual > 0 and value > SPIKE * usual]
    if spikes:
        worst = max(value for _, value in spikes)
        what = f"The gradient norm jumped to {general(worst)} ({general(worst / usual, 3)} times its median) at "
        limit = case.training("max_grad_norm")
        held = (
            f"max_grad_norm {limit:g} cut the step short" if limit else "nothing limits it: set training.max_grad_norm"
        )
        advice = f"{held}; look for rows unlike the others (length, language), or lower training.learning_rate"
        yield Finding("grad_spikes", "warn", f"{what}{steps_of(spikes)}.", advice)


def _learning_rate(case: Case) -> Iterator[Finding]:
    series = case.curve("learning_rate")
    if series is None:
        return
    pairs = series.finite
    rates = [rate for _, rate in pairs]
    if len(rates) > 1 and not any(rates):
        advice = "give training.learning_rate a value above 0, and warmup_steps fewer steps than there are"
        yield Finding("rate_zero", "bad", "The learning rate was 0 at every logged step: nothing was learned.", advice)
        return
    idle = next((place for place, rate in enumerate(reversed(rates)) if rate > 0), 0)
    if len(rates) >= 2 * FEW and idle > len(rates) // FEW:
        step = pairs[len(pairs) - idle][0]
        what = f"The learning rate has been 0 since step {step:.0f}: the last {idle} logged steps taught nothing."
        yield Finding(
            "rate_zero", "warn", what, "the schedule was made for fewer steps: see max_steps, num_train_epochs"
        )
    if len(rates) >= FEW and case.state == "finished" and all(a < b for a, b in pairwise(rates)):
        what = f"The learning rate was still warming up when training ended (at {general(rates[-1])})."
        yield Finding("warmup", "warn", what, "fewer training.warmup_steps, or more steps")


def _held_out(case: Case) -> Iterator[Finding]:
    series = case.curve("eval_loss")
    if series is None or len(series.finite) < 3 or case.online:
        return
    pairs = series.finite
    (step, best), (end, last) = min(pairs, key=lambda pair: pair[1]), pairs[-1]
    if last - best <= OVERFIT * abs(best):
        return
    train = case.curve("loss")
    now = f"{general(last)} at step {end:.0f}"
    if train is not None:
        now += f", while the training loss went on to {general(train.last)}"
    if step == pairs[0][0]:
        what = f"The held-out loss was never below that of step {step:.0f}: {general(best)} then, {now}."
        yield Finding("worse_held_out", "bad", what, "lower training.learning_rate; is the eval data of the same kind?")
        return
    what = f"It overfits: the held-out loss was best at step {step:.0f} ({general(best)}) and is {now}."
    kept = case.data.recipe_at("training", "load_best_model_at_end")
    advice = "" if kept else "training.load_best_model_at_end: true with early_stopping_patience keeps the best; "
    yield Finding("overfitting", "note" if kept else "warn", what, f"{advice}fewer epochs, more data, or weight_decay")


# ---------------------------------------------------------------------- learning from rewards
def _rewards(case: Case) -> Iterator[Finding]:
    spread, reward = case.curve("reward_std"), case.curve("reward")
    if spread is not None and reward is not None:
        pairs = spread.finite
        dead = next((place for place, (_, value) in enumerate(reversed(pairs)) if value != 0), len(pairs))
        recent = pairs[len(pairs) - dead :]
        if dead >= min(len(pairs), max(3, len(pairs) // FEW)):
            told = {general(value) for _, value in reward.finite[-len(recent) :]}
            always = f"was {told.pop()} for every completion" if len(told) == 1 else "was the same within every group"
            since = "at every logged step" if dead == len(pairs) else f"since step {recent[0][0]:.0f}"
            what = f"Dead reward: the reward {always} {since}, so there is nothing to learn from."
            advice = (
                f"`alignkit reward-test {case.data.run_dir / 'recipe.yaml'}` shows what the rewards say of right and "
            )
            advice += (
                "wrong answers; give a reward for steps on the way (a format, a part), or start from a better model"
            )
            yield Finding("dead_reward", "bad", what, advice)
    for name, series in case.data.curves.items():
        found = re.fullmatch(r"rewards/(.+)/none", name)
        values = [value for _, value in series.finite]
        if found and values and (mean := sum(values) / len(values)) > UNANSWERED:
            what = f"The reward {found[1]} gave no value for {mean:.0%} of the samples."
            yield Finding("no_reward", "warn", what, "see its lines in log.txt, and try it with `alignkit reward-test`")
    if reward is not None and (found_ends := ends(reward)) is not None:
        first, last = found_ends
        best = max(median(v for _, v in reward.finite[i : i + FEW]) for i in range(len(reward.finite) - FEW + 1))
        if best - last > max(4 * noise(reward), 0.1 * abs(best)):
            what = (
                f"The reward has fallen from its best, {general(best)}, to {general(last)} (at first {general(first)})."
            )
            yield Finding("reward_falls", "bad", what, "lower training.learning_rate, or raise training.beta")


def _kl(case: Case) -> Iterator[Finding]:
    for name, limit, unit in (("kl", FAR, "a token"), ("objective/kl", FAR_IN_ALL, "a completion")):
        series = case.curve(name)
        if series is None:
            continue
        recent = [value for _, value in series.finite[-max(3, len(series.finite) // FEW) :]]
        if median(recent) > limit and recent[-1] > series.finite[0][1]:
            step = next(step for step, value in series.finite if value > limit)
            what = f"The policy has left the reference: the KL is {general(median(recent))} nats {unit}, above "
            what += f"{limit:g} since step {step:.0f}."
            advice = (
                "raise training.beta (kl_coef), lower training.learning_rate; read the completions in samples.jsonl"
            )
            yield Finding("kl", "bad", what, advice)
            return


# ---------------------------------------------------------------------- speed
def _speed(case: Case) -> Iterator[Finding]:
    waits, steps = case.curve("reward_wait_s"), case.curve("step_time")
    if waits is not None and steps is not None and case.online:
        shares = [wait / step for (_, wait), (_, step) in zip(waits.finite, steps.finite, strict=False) if step > 0]
        if shares and (share := median(shares)) > WAITING:
            what = f"It starves: {share:.0%} of each step is spent waiting for the rewards."
            yield Finding(
                "starved", "warn", what, "make the reward faster: it is asked for all completions of a step at once"
            )
    series = case.curve("tokens_per_second")
    if series is None:
        return
    pairs = series.finite[1:]  # the first holds what is compiled and cached once
    if len(pairs) < 2 * FEW:
        return
    size = max(3, len(pairs) // FEW)
    first, last = median(value for _, value in pairs[:size]), median(value for _, value in pairs[-size:])
    if last < SLOWER * first:
        what = f"It has become slower: {first:,.0f} tokens a second at first, {last:,.0f} at the end."
        advice = "another process on the machine, memory that is swapped, a slow disk under the data, or heat; "
        yield Finding("slower", "warn", what, f"{advice}training.dataloader_num_workers reads ahead")


# ---------------------------------------------------------------------- what the run itself said
def _alarms(case: Case) -> Iterator[Finding]:
    """The warnings of alignkit's own watchers, each kind once, by its last occurrence."""
    latest: dict[str, tuple[str, int]] = {}
    for name, text in re.findall(r"^\S+ \S+ WARNING (alignkit\S*): (.+)$", case.log, re.MULTILINE):
        kind = re.sub(r"[-+]?\d[\d.,e+-]*%?|'[^']*'", "#", f"{name} {text}")
        latest[kind] = (text, latest.get(kind, ("", 0))[1] + 1)
    dead = "have the same reward"
    for text, times in latest.values():
        if dead in text and any(finding.kind == "dead_reward" for finding in _rewards(case)):
            continue
        what = text[0].upper() + text[1:]
        yield Finding("alarm", "warn", f"{what}{f' (told {times} times)' if times > 1 else ''}")
