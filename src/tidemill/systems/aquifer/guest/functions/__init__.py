"""Functions in the spirit of FunctionBench, as a guest runs them: ``handle(request) -> dict``."""
