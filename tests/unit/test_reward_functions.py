"""The built-in reward functions, each on cases that tell it from its neighbours."""

from __future__ import annotations

import http.server
import json
import random
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.conftest import SHARED

from alignkit.rewards import Call, Failure
from alignkit.rewards.functions.arithmetic import NotArithmetic, arithmetic_24, evaluate, solve
from alignkit.rewards.functions.code import code_tests
from alignkit.rewards.functions.matching import exact_match, json_schema, math_answer, numeric, regex
from alignkit.rewards.functions.shape import format, language, length, repetition
from alignkit.rewards.judge import Judge

PUZZLES = SHARED / "game24" / "game24.jsonl"


# ---------------------------------------------------------------------- answers
def test_exact_match_and_numeric():
    assert exact_match("46", ["46"]) == 1 and exact_match("46.", ["46"]) == 0
    assert exact_match("The answer is 46.", ["46"], answer="the_answer_is") == 1
    assert numeric("so it costs $1,000.00", ["#### 1000"]) == 1 and numeric("it is 7", ["#### 8"]) == 0
    assert numeric("3.14", ["3.1416"], tolerance=0.001) == 1


def test_math_answer():
    assert math_answer("so $x = \\boxed{\\frac{1}{2}}$", ["0.5"]) == 1
    assert math_answer("\\boxed{2\\sqrt{2}}", ["\\sqrt{8}"]) == 1
    assert math_answer("it is \\boxed{3}", ["4"]) == 0
    assert math_answer("3", [""]) is None


def test_regex_and_json_schema():
    assert regex("a\nb", pattern="a.b") == 1 and regex("xab", pattern="ab", full=True) == 0
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    assert json_schema('Here:\n```json\n{"n": 3}\n```', schema=schema) == 1
    assert json_schema('{"n": "3"}', schema=schema) == 0 and json_schema("{n: 3}", schema=schema) == 0


# ---------------------------------------------------------------------- form
def test_format():
    right = "<think>a</think>\n<answer>b</answer>"
    assert format(right) == 1 and format(f"well, {right}") == 0
    assert format("<think>a</think><think>b</think><answer>c</answer>") == 0
    assert format("<answer>b</answer>", partial=True) == pytest.approx(2 / 5)


def test_length_has_soft_edges():
    assert [length("", tokens, min=4, max=8, soft=3) for tokens in (0, 2, 4, 8, 9, 11, 12)] == [
        0, 0.5, 1, 1, 0.75, 0.25, 0
    ]  # fmt: skip
    assert length("one two three", 99, max=3, unit="words") == 1


def test_repetition_and_language():
    assert repetition("a b c d e f") == 0 and repetition("no " * 30) == pytest.approx(-1 + 1 / 28)
    assert language("Привет, мир", expected="ru") == 1 and language("Hello, world", expected="ru") == 0
    english, german = "the cat is on the mat and it was not for you", "der Hund ist nicht auf dem Tisch und die Katze"
    assert language(english, expected="en") > 0.9 > 0.4 > language(german, expected="en")
    assert language("你好世界", expected="zh") == 1 and language("123", expected="en") == 0


# ---------------------------------------------------------------------- game of 24
@pytest.mark.skipif(not PUZZLES.exists(), reason="the puzzles are not beside the project")
def test_every_puzzle_is_solved_and_the_solution_accepted():
    puzzles = [json.loads(line)["numbers"] for line in PUZZLES.read_text().splitlines()]
    assert len(puzzles) == 1362
    chance = random.Random(0)
    for numbers in puzzles:
        solution = solve(numbers)
        assert solution is not None and arithmetic_24(solution, numbers) == 1
        assert arithmetic_24(f"thinking …\n{solution} = 24", numbers) == 1
        digit = chance.choice([place for place, letter in enumerate(solution) if letter.isdigit()])
        other = solution[:digit] + str((int(solution[digit]) + 1) % 10) + solution[digit + 1 :]
        assert arithmetic_24(other, numbers) == 0  # another number, wherever it leads
        assert arithmetic_24(f"{solution} + 1 - 1", numbers) == 0  # the right value, with numbers that were not given
        assert arithmetic_24(solution, [*numbers[:3], numbers[3] + 1]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "24", "6*4 # 1 1", "4**6-1-1", "4//1*6*1", "(1+1", "1+1)", "", "1 1 4 6",
        "6*4*1*l", "6*4*1*1=23", "+6*4*1*1", "6*-4*1*1", "1e1+4+6*1", "6*4*1*1;0", "٦*4*1*1", "6/(1-1)*4",
        "lambda: 24", "(" * 300 + "6*4*1*1" + ")" * 300, "9" * 500, "6*4*1*1 = 6/0",
    ],
)  # fmt: skip
def test_what_is_no_solution_is_refused(text):
    assert arithmetic_24(text, [1, 1, 4, 6]) == 0


def test_expressions_are_exact():
    assert evaluate("8/(3-8/3)") == (Fraction(24), [8, 3, 8, 3])  # in floating point 23.999999999999989
    assert arithmetic_24("8÷(3−8÷3)", [3, 3, 8, 8]) == 1 and arithmetic_24("(4 × 6)", [4, 6]) == 1
    assert arithmetic_24("10+5", [5, 10, 7], 15, all_numbers=False) == 1
    assert arithmetic_24("1/3+1/3", [1, 3, 1, 3], "0.6666") == 0
    with pytest.raises(NotArithmetic, match="division by zero"):
        evaluate("1/(2-2)")


def test_nothing_in_the_package_evaluates_text():
    """`exec` stands in the child that runs code tests, which are off unless a recipe asks for them."""
    package = Path(__file__).parents[2] / "src" / "alignkit"
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert " eval(" not in text and "=eval(" not in text, path
        assert "exec(" not in text.replace("exec(compile(", "") or path.name == "code.py", path


# ---------------------------------------------------------------------- code
def run(code: str, tests: Any = ("assert f(2) == 4",), **options: Any) -> float:
    return code_tests(f"Here:\n```python\n{code}\n```", list(tests), run_code=True, **options)


def test_code_is_run_against_tests(tmp_path):
    assert run("def f(x): return x * x") == 1 and run("def f(x): return x + 1") == 0
    assert run("def f(x): return x * x", ["assert f(2) == 4", "assert f(3) == 1"], partial=True) == 0.5
    assert run("def f(x: return") == 0


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "x = 'a' * 10**10\ndef f(x): return 4",
        "open('big', 'wb').write(b'0' * 10**8)\ndef f(x): return 4",
        "import socket; socket.create_connection(('127.0.0.1', 9))\ndef f(x): return 4",
        "import socket; socket.getaddrinfo('example.com', 80)\ndef f(x): return 4",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), 9)",
        "import os; os.write(3, b'9'); os._exit(0)",
        "import os\nif os.fork(): os._exit(0)",
        "import subprocess; subprocess.run(['true'])\ndef f(x): return 4",
    ],
)
def test_code_can_neither_hang_nor_fill_nor_call_out(code):
    assert run(code, wall_seconds=3, cpu_seconds=1) == 0


# ---------------------------------------------------------------------- a judge
class Endpoint(http.server.BaseHTTPRequestHandler):
    replies: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.asked.append(body)
        Endpoint.keys.append(self.headers.get("Authorization"))
        said = body["messages"][0]["content"].partition("<answer>")[2].partition("</answer>")[0].strip()
        reply = Endpoint.replies[said]
        if isinstance(reply, list):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        self.send_response(reply if isinstance(reply, int) else 200)
        self.end_headers()
        if isinstance(reply, str):
            self.wfile.write(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def endpoint():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_a_judge_marks_from_0_to_1_and_may_fail_for_one_sample(endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    Endpoint.replies = {
        "good": "It is fine.\nScore: 10",
        "{prompt}": "**Score: 1**",
        "busy": [503, "7"],
        "odd": "I will not say",
        "gone": 404,
        "much": "Score: 99",
    }
    judge = Judge("some-model", base_url=endpoint, api_key_env="JUDGE_KEY")
    said = list(Endpoint.replies)
    call = Call(["Why?"] * len(said), said, [[1]] * len(said), {"answer": ["because"] * len(said)})
    marks = judge(call).values
    assert marks[:3] == [1.0, 0.0, pytest.approx(6 / 9)]
    assert all(isinstance(mark, Failure) for mark in marks[3:])
    assert "404" in marks[4].reason
    assert set(Endpoint.keys) == {"Bearer secret"}
    asked = next(body for body in Endpoint.asked if "{prompt}" in body["messages"][0]["content"])
    assert asked["model"] == "some-model" and "because" in asked["messages"][0]["content"]
