# make demo       train, evaluate, convert and verify a hyperbolic net on real digits
# make test       the tests;  make test-slow: those that take minutes;  make lint: ruff and mypy
#
# An active virtual environment is used; else .venv is made here with Python 3.10 or 3.11.
# A Python of your choice: make PYTHON=/path/to/python3.11 test
# More arguments:          make test ARGS="tests/test_epc.py -x";  make demo ARGS=--quick

SHELL := /bin/bash
EXTRAS := test,convert,search,data
ENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
PYTHON := python3.11 python3.10 python3 python
ARGS :=

.PHONY: demo test test-slow lint install

demo: install
	"$(ENV)/bin/hbnn" demo $(ARGS)

# Two processes, each with whole files; up to 7 GB each. One: make test ARGS="-n 0"
PYTEST := pytest -n 2 --dist loadfile

test: install
	"$(ENV)/bin/"$(PYTEST) $(ARGS)

test-slow: install
	"$(ENV)/bin/"$(PYTEST) -m slow $(ARGS)

lint: install
	"$(ENV)/bin/ruff" check .
	"$(ENV)/bin/ruff" format --check .
	"$(ENV)/bin/mypy" hbnn_larq zoo training benchmarks

# The stamp in the environment names what was installed from where, so that a second call is
# quick and a changed setup.py, a moved folder or another environment is not missed.
install: $(if $(VIRTUAL_ENV),,.venv/bin/python)
	@"$(ENV)/bin/python" -c 'import sys; v = sys.version_info; v[:2] in ((3, 10), (3, 11)) or sys.exit(f"hbnn_larq needs Python 3.10 or 3.11, since TensorFlow 2.15 has no other builds; $(ENV) has {v[0]}.{v[1]}. Make it anew with one of these.")'
	@stamp="$$(cat setup.py pyproject.toml | cksum) [$(EXTRAS)] $$PWD"; \
	if [ "$$(cat "$(ENV)/hbnn_larq.installed" 2>/dev/null)" != "$$stamp" ]; then \
	    echo "installing hbnn_larq[$(EXTRAS)] into $(ENV)" && \
	    "$(ENV)/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]" && \
	    echo "$$stamp" > "$(ENV)/hbnn_larq.installed"; \
	fi

.venv/bin/python:
	@found=""; \
	for python in $(PYTHON); do \
	    version="$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"; \
	    case "$$version" in \
	        3.10|3.11) exec "$$python" -m venv .venv ;; \
	        ?*) found="$$found $$python is $$version;" ;; \
	    esac; \
	done; \
	echo "hbnn_larq needs Python 3.10 or 3.11, since TensorFlow 2.15 has no other builds;$${found:- no Python found;} name one: make PYTHON=/path/to/python3.11" >&2; \
	exit 1
