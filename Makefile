# The README's lines under a name. `make demo` and `make test` are the same commands, character for
# character (held by tests/test_architecture.py).
.PHONY: demo test campaign kills site lint format bench

demo:
	python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ".[app]" && .venv/bin/diffodesic interpolate

test:
	python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ".[app,evaluate,molecules,test]" && .venv/bin/python -m pytest -n auto

campaign:
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt ".[app,evaluate,molecules,test]"
	.venv/bin/python -m pytest tests/campaign --campaign full --outcomes results/campaign.json -n auto

kills:
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt ".[app,evaluate,molecules,test]"
	.venv/bin/python -m pytest tests/test_kills.py -m nightly --outcomes results/kills.json

site:
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt ".[app,evaluate,molecules,test,docs]"
	.venv/bin/python -m sphinx -W --keep-going docs site

lint:
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt ".[app,evaluate,molecules,test,dev]"
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench:
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt ".[app,bench,test]"
	.venv/bin/python -m benchmarks run
	.venv/bin/python -m benchmarks table
