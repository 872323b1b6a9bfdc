# Two commands do everything: `make demo` (set up, then SFT, GRPO and what each gained) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-learning test-faults bench lint clean

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing alignkit and the tested set of libraries into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/alignkit sft recipes/tiny/sft_sorting.yaml --overwrite
	$(BIN)/alignkit grpo recipes/tiny/grpo.yaml --overwrite
	$(BIN)/alignkit compare runs/tiny-sft-sorting:baseline runs/tiny-sft-sorting runs/tiny-grpo --metric exact_match

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# Each method that learns, on three seeds: some minutes each.
test-learning: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "learning or not learning" tests/learning

# Every benchmark in turn, in one table: an hour or two. ARGS="--only plan_accuracy" runs some of them.
bench: $(STAMP)
	$(BIN)/python benchmarks/all.py $(ARGS)

# Every fault on every method, a hundred kills among them; prints the README's table. About an hour on two cores.
test-faults: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache runs
