.PHONY: install run test lint bench docs fuzz clean
PYTEST_ARGS ?=

install:
	@scripts/setup.sh dev

run:
	@scripts/setup.sh run
	@exec .venv/bin/tidemill up $(ARGS)

test: install
	@scripts/lint.sh
	.venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

lint: install
	@scripts/lint.sh

bench: install
	.venv/bin/tidemill claims --budget full $(ARGS)

docs: install
	.venv/bin/python scripts/docs.py $(ARGS)

fuzz: install
	.venv/bin/python scripts/fuzz_serve.py $(ARGS)

clean:
	rm -rf build .venv .pytest_cache .ruff_cache .hypothesis
